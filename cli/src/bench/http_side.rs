//! An OpenAI server over HTTP, asked for text completions as streams.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures::StreamExt;
use serde_json::{Value, json};

use crate::bench::record::Record;
use crate::bench::side::Work;

/// A server that is there accepts at once.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The list of models is a small answer, also of a server that is loading.
const MODELS_TIMEOUT: Duration = Duration::from_secs(30);

/// One model of one server.
#[derive(Debug, Clone)]
pub struct HttpSide {
    client: reqwest::Client,
    /// Without `/v1`.
    base: String,
    model: String,
}

impl HttpSide {
    /// Of a server at `http://host:port`, with or without `/v1`. Without a name, the only model that it lists.
    ///
    /// # Errors
    /// If nothing answers there, or the model cannot be chosen.
    pub async fn connect(url: &str, model: Option<String>) -> anyhow::Result<Self> {
        if !url.starts_with("http://") && !url.starts_with("https://") {
            bail!("{url} is no address of a server; it should look like http://127.0.0.1:8080");
        }
        let base = url.trim_end_matches('/');
        let base = base.strip_suffix("/v1").unwrap_or(base).to_owned();
        // Fails only if a provider is installed already, which is just as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // A proxy on the way would be measured too.
        let client =
            reqwest::Client::builder().no_proxy().connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true).build()?;
        let mut side = Self { client, base, model: String::new() };
        let listed = side.models().await?;
        side.model = match (model, listed.as_slice()) {
            (Some(model), _) => model,
            (None, [only]) => only.clone(),
            (None, []) => bail!("{} lists no model; name one with --compare-model", side.base),
            (None, several) => {
                bail!("{} has several models; choose one with --compare-model: {}", side.base, several.join(", "))
            }
        };
        Ok(side)
    }

    /// Name of the model on the server.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Address of the server.
    pub fn base(&self) -> &str {
        &self.base
    }

    async fn models(&self) -> anyhow::Result<Vec<String>> {
        let url = format!("{}/v1/models", self.base);
        let answer = self.client.get(&url).timeout(MODELS_TIMEOUT).send().await;
        let answer = answer.with_context(|| format!("cannot reach {}; is a server running there?", self.base))?;
        let status = answer.status();
        if !status.is_success() {
            bail!("{url} answered {status}; --compare needs an OpenAI server that has loaded its model");
        }
        let list: Value =
            answer.json().await.with_context(|| format!("{url} answered with something else than JSON"))?;
        let models = list["data"].as_array().with_context(|| format!("{url} answered without a list of models"))?;
        Ok(models.iter().filter_map(|model| model["id"].as_str().map(str::to_owned)).collect())
    }

    /// As [`crate::bench::side::Side::run`].
    pub async fn run(&self, work: &Work) -> anyhow::Result<Vec<Record>> {
        let streams = work.prompts.iter().map(|prompt| self.stream(&prompt.text, work.max_tokens));
        futures::future::try_join_all(streams).await
    }

    async fn stream(&self, prompt: &str, max_tokens: usize) -> anyhow::Result<Record> {
        let body = json!({
            "model": self.model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0,
            "ignore_eos": true, "stream": true, "stream_options": {"include_usage": true},
        });
        let url = format!("{}/v1/completions", self.base);
        let started = Instant::now();
        let sent = self.client.post(&url).json(&body).send().await;
        let answer = sent.with_context(|| format!("ask {url}"))?;
        let status = answer.status();
        if !status.is_success() {
            let said: String = answer.text().await.unwrap_or_default().chars().take(300).collect();
            bail!("{url} answered {status}: {said}");
        }
        let mut events = Events::default();
        let mut bytes = answer.bytes_stream();
        while let Some(chunk) = bytes.next().await {
            events.take(&chunk.with_context(|| format!("read the answer of {url}"))?, Instant::now())?;
        }
        events.record(started).with_context(|| format!("understand the answer of {url}"))
    }
}

/// Server-sent events as they come in.
#[derive(Default)]
struct Events {
    /// Of a line that has not ended yet.
    rest: Vec<u8>,
    texts: Vec<Instant>,
    usage: Value,
}

impl Events {
    fn take(&mut self, bytes: &[u8], now: Instant) -> anyhow::Result<()> {
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let Some(data) = line.strip_prefix(b"data:").map(<[u8]>::trim_ascii) else { continue };
            if data == b"[DONE]" {
                continue;
            }
            let event: Value = serde_json::from_slice(data).context("an event is no JSON")?;
            if let Some(error) = event.get("error") {
                bail!("the server failed: {error}");
            }
            if event["choices"][0]["text"].as_str().is_some_and(|text| !text.is_empty()) {
                self.texts.push(now);
            }
            if event["usage"].is_object() {
                self.usage = event["usage"].clone();
            }
        }
        Ok(())
    }

    /// Tokens are the server's own count; a piece of text is an equal share of them, because not every token ends a
    /// character and some servers send several at once.
    fn record(self, started: Instant) -> anyhow::Result<Record> {
        let count = |key: &str| self.usage[key].as_u64().with_context(|| format!("its usage lacks {key}"));
        let (prompt_tokens, completion_tokens) = (count("prompt_tokens")?, count("completion_tokens")?);
        if self.texts.is_empty() {
            bail!("it sent no text");
        }
        let share = completion_tokens as f64 / self.texts.len() as f64;
        Ok(Record {
            started,
            pieces: self.texts.into_iter().map(|at| (at, share)).collect(),
            prompt_tokens,
            cached_tokens: self.usage["prompt_tokens_details"]["cached_tokens"].as_u64(),
            completion_tokens,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_may_be_cut_anywhere() {
        let text = "data: {\"choices\":[{\"text\":\"a\"}]}\n\n: comment\n\ndata: {\"choices\":[{\"text\":\"\"}]}\n\n\
                    data: {\"choices\":[{\"text\":\"\u{e9}\"}],\"usage\":null}\n\n\
                    data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3,\
                    \"prompt_tokens_details\":{\"cached_tokens\":4}}}\n\ndata: [DONE]\n\n";
        for size in [1, 7, 4096] {
            let (mut events, now) = (Events::default(), Instant::now());
            text.as_bytes().chunks(size).for_each(|chunk| events.take(chunk, now).unwrap());
            let record = events.record(now).unwrap();
            assert_eq!((record.prompt_tokens, record.completion_tokens, record.cached_tokens), (7, 3, Some(4)));
            assert_eq!(record.pieces.iter().map(|(_, tokens)| *tokens).collect::<Vec<_>>(), [1.5, 1.5]);
        }
    }

    #[test]
    fn an_answer_without_usage_or_with_an_error_is_no_measurement() {
        let (mut events, now) = (Events::default(), Instant::now());
        events.take(b"data: {\"choices\":[{\"text\":\"a\"}]}\n", now).unwrap();
        assert!(events.record(now).unwrap_err().to_string().contains("usage lacks prompt_tokens"));
        let said = Events::default().take(b"data: {\"error\":{\"message\":\"no\"}}\n", now).unwrap_err().to_string();
        assert!(said.contains("the server failed") && said.contains("no"), "{said}");
    }
}
