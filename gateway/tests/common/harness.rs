//! A gateway in front of a fake runtime, and what tests do with its answers.

use std::path::PathBuf;
use std::time::Duration;

use kindling_gateway::{Availability, Backend, Config, Discovery, Route, StaticRoutes, serve};
use kindling_proto::v1::GenerateRequest;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::fake_runtime::{FakeRuntime, Step};

/// Longer than anything here takes; a test that waits this long has failed.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// A running gateway. It stops when this is dropped.
pub struct Gateway {
    pub url: String,
    pub runtime: FakeRuntime,
    pub routes: StaticRoutes,
    pub http: reqwest::Client,
    /// Sent or dropped, it asks the gateway to shut down.
    pub stop: oneshot::Sender<()>,
}

/// A gateway that serves `demo/tiny`, also called `gpt-4`, with default settings.
pub async fn gateway(script: impl Fn(&GenerateRequest) -> Vec<Step> + Send + Sync + 'static) -> Gateway {
    gateway_with(script, |_| {}).await
}

/// The same with some settings changed.
pub async fn gateway_with(
    script: impl Fn(&GenerateRequest) -> Vec<Step> + Send + Sync + 'static,
    change: impl FnOnce(&mut Config),
) -> Gateway {
    let runtime = FakeRuntime::new(script);
    let routes = StaticRoutes::new(vec![Route {
        name: "tiny".into(),
        namespace: Some("demo".into()),
        aliases: vec!["gpt-4".into()],
        created: 1_700_000_000,
        availability: Availability::Ready,
        backend: Some(Backend::new(runtime.start().await)),
        on_demand: None,
    }]);
    let mut config = Config::new(Discovery::Static(routes.clone()));
    config.timeouts.drain = Duration::from_millis(10);
    change(&mut config);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port should be free");
    let url = format!("http://{}", listener.local_addr().expect("a listener should have an address"));
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(serve(config, listener, async move {
        stopped.await.ok();
    }));
    Gateway { url, runtime, routes, http: http_client(), stop }
}

/// What came back, read to its end.
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error} in {}", self.text))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// `(message, type, param, code)` of an error; panics if one of the keys is missing.
    pub fn error(&self) -> (String, String, Option<String>, Option<String>) {
        let body = self.json();
        let fields = body["error"].as_object().unwrap_or_else(|| panic!("no error in {body}"));
        let field =
            |key: &str| fields.get(key).unwrap_or_else(|| panic!("no {key} in {body}")).as_str().map(str::to_owned);
        let text = |key: &str| field(key).unwrap_or_else(|| panic!("{key} is null in {body}"));
        (text("message"), text("type"), field("param"), field("code"))
    }
}

impl Gateway {
    pub async fn get(&self, path: &str) -> Answer {
        answer(self.http.get(format!("{}{path}", self.url))).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.post_raw(path, body.to_string()).await
    }

    pub async fn post_raw(&self, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        answer(self.http.post(format!("{}{path}", self.url)).body(body)).await
    }

    pub async fn chat(&self, extra: Value) -> Answer {
        self.post("/v1/chat/completions", merged(hello(), extra)).await
    }

    pub async fn complete(&self, extra: Value) -> Answer {
        self.post("/v1/completions", merged(json!({"model": "tiny", "prompt": "Hi"}), extra)).await
    }

    /// What the runtime was asked, the latest first.
    pub fn asked(&self) -> GenerateRequest {
        let requests = self.runtime.requests.lock().expect("no test should panic with the lock");
        requests.last().cloned().expect("the runtime should have been asked")
    }

    /// Waits until the runtime has seen `count` calls dropped.
    pub async fn aborted(&self, count: u32) {
        let mut aborted = self.runtime.aborted.subscribe();
        let seen = tokio::time::timeout(DEADLINE, aborted.wait_for(|seen| *seen >= count)).await;
        seen.expect("the runtime should see the hang-up").expect("the runtime should be there");
    }

    /// Waits until a line of the metrics has this value.
    pub async fn metric(&self, line: &str) {
        let found = async {
            while !self.get("/metrics").await.text.lines().any(|found| found == line) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(DEADLINE, found).await.is_err() {
            panic!("no {line} in\n{}", self.get("/metrics").await.text);
        }
    }
}

/// A client; its TLS provider must be chosen, although these tests speak plain HTTP.
pub fn http_client() -> reqwest::Client {
    // Fails only if another test has chosen already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}

async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let response = tokio::time::timeout(DEADLINE, request.send()).await.expect("an answer should come in time");
    let response = response.expect("the gateway should answer");
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = tokio::time::timeout(DEADLINE, response.text()).await.expect("an answer should end in time");
    Answer { status, headers, text: text.expect("an answer should be complete") }
}

/// The smallest chat request.
pub fn hello() -> Value {
    json!({"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]})
}

/// `extra`'s keys over `base`'s.
pub fn merged(mut base: Value, extra: Value) -> Value {
    let fields = base.as_object_mut().expect("a request should be an object");
    fields.extend(extra.as_object().expect("extra fields should be an object").clone());
    base
}

/// Compares with the file, after taking out what differs from run to run. `KINDLING_UPDATE_GOLDEN=1` writes it.
pub fn assert_golden(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let text = normalised(text);
    if std::env::var_os("KINDLING_UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).expect("a golden file should be writable");
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, golden, "{} differs; KINDLING_UPDATE_GOLDEN=1 accepts it", path.display());
}

fn normalised(text: &str) -> String {
    let text = replaced(text, "\"id\":\"chatcmpl-", '"', "ID");
    let text = replaced(&text, "\"id\":\"cmpl-", '"', "ID");
    let text = replaced(&text, "\"system_fingerprint\":\"kindling-", '"', "VERSION");
    replaced(&text, "\"created\":", ',', "0")
}

/// Puts `by` in place of everything between `after` and the next `end`.
fn replaced(text: &str, after: &str, end: char, by: &str) -> String {
    let mut parts = text.split(after);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.find(end).map_or("", |at| &part[at..]);
        out.extend([after, by, rest]);
    }
    out
}
