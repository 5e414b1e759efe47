//! A client of the gateway.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(60);

/// The gateway at an address.
#[derive(Debug, Clone)]
pub struct Gateway {
    address: String,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Body; of a stream, the text put together under `text` and the usage under `usage`.
    pub body: Value,
}

impl Gateway {
    /// A gateway at `host:port`.
    pub fn at(address: impl Into<String>) -> Self {
        Self { address: address.into() }
    }

    /// Asks one question, greedily.
    pub fn ask(&self, model: &str, question: &str) -> Answer {
        self.post(&chat_body(model, question, false))
    }

    /// Asks and puts the streamed answer together.
    ///
    /// # Panics
    /// If the stream breaks or holds something that is no chunk.
    pub fn ask_streaming(&self, model: &str, question: &str) -> Answer {
        let response = client()
            .post(self.url("/v1/chat/completions"))
            .send_json(chat_body(model, question, true))
            .expect("the gateway should answer");
        let status = response.status().as_u16();
        let (mut text, mut usage, mut is_done) = (String::new(), Value::Null, false);
        for line in BufReader::new(response.into_body().into_reader()).lines() {
            let line = line.expect("the stream should not break");
            let Some(data) = line.strip_prefix("data: ") else { continue };
            if data == "[DONE]" {
                is_done = true;
                continue;
            }
            let chunk: Value = serde_json::from_str(data).expect("each event should be JSON");
            text.push_str(chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default());
            if chunk["usage"].is_object() {
                usage = chunk["usage"].clone();
            }
        }
        assert!(is_done, "the stream should end with [DONE]");
        Answer { status, body: json!({"text": text, "usage": usage}) }
    }

    /// The ids that `/v1/models` lists.
    pub fn models(&self) -> Vec<String> {
        let body: Value = client()
            .get(self.url("/v1/models"))
            .call()
            .and_then(|response| response.into_body().read_json())
            .unwrap_or_default();
        let entries = body["data"].as_array().cloned().unwrap_or_default();
        entries.iter().filter_map(|entry| entry["id"].as_str().map(str::to_owned)).collect()
    }

    fn post(&self, body: &Value) -> Answer {
        match client().post(self.url("/v1/chat/completions")).send_json(body) {
            Ok(response) => {
                let status = response.status().as_u16();
                Answer { status, body: response.into_body().read_json().unwrap_or_default() }
            }
            Err(error) => Answer { status: 0, body: json!({"error": {"message": error.to_string()}}) },
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

impl Answer {
    /// The text of a whole answer.
    pub fn text(&self) -> &str {
        let whole = self.body["choices"][0]["message"]["content"].as_str();
        whole.or_else(|| self.body["text"].as_str()).unwrap_or_default()
    }
}

fn chat_body(model: &str, question: &str, is_stream: bool) -> Value {
    let mut body = json!({
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": 32,
        "temperature": 0,
    });
    if is_stream {
        body["stream"] = json!(true);
        body["stream_options"] = json!({"include_usage": true});
    }
    body
}

fn client() -> ureq::Agent {
    ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).http_status_as_error(false).build().into()
}
