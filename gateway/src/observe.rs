//! What happens around every request: its id, its headers, its line in the log, its numbers in the metrics.
//!
//! A [`Record`] lives as long as anything works for the request. When the last owner drops it, it knows how the
//! request ended: answered, or left by its client.

use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::discovery::Model;
use crate::metrics::Metrics;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const PROCESSING_MS: HeaderName = HeaderName::from_static("openai-processing-ms");
const MODEL: HeaderName = HeaderName::from_static("kindling-model");
/// nginx's code for a client that closed its connection; never sent, only counted.
const CLIENT_CLOSED: u16 = 499;

/// One request under observation.
pub struct Record {
    pub request_id: String,
    pub started: Instant,
    pub route: &'static str,
    pub metrics: Arc<Metrics>,
    model: OnceLock<String>,
    /// 0 until there is an answer.
    code: AtomicU16,
    /// Set while a body is being streamed that may yet break off.
    is_streaming: AtomicBool,
}

impl Record {
    fn new(route: &'static str, request_id: String, metrics: Arc<Metrics>) -> Arc<Self> {
        metrics.in_flight.with_label_values(&[route]).inc();
        Arc::new(Self {
            request_id,
            started: Instant::now(),
            route,
            metrics,
            model: OnceLock::new(),
            code: AtomicU16::new(0),
            is_streaming: AtomicBool::new(false),
        })
    }

    /// Notes which model the request turned out to be for.
    pub fn set_model(&self, model: &Model) {
        self.model.set(model.canonical.clone()).ok();
    }

    /// The model's label: a known model, or `unknown`.
    pub fn model(&self) -> &str {
        self.model.get().map_or("unknown", String::as_str)
    }

    /// From here on the answer is a stream; dropping the record before [`Self::stream_ended`] is a hang-up.
    pub fn stream_began(&self) {
        self.is_streaming.store(true, Ordering::Relaxed);
    }

    /// The stream's last byte is on its way. An error inside it counts under its own code.
    pub fn stream_ended(&self, error: Option<http::StatusCode>) {
        if let Some(code) = error {
            self.code.store(code.as_u16(), Ordering::Relaxed);
        }
        self.is_streaming.store(false, Ordering::Relaxed);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let answered = self.code.load(Ordering::Relaxed);
        let has_hung_up = answered == 0 || self.is_streaming.load(Ordering::Relaxed);
        let code = if has_hung_up { CLIENT_CLOSED } else { answered };
        let seconds = self.started.elapsed().as_secs_f64();
        let (route, model) = (self.route, self.model());
        self.metrics.in_flight.with_label_values(&[route]).dec();
        self.metrics.requests.with_label_values(&[route, model, &code.to_string()]).inc();
        self.metrics.duration.with_label_values(&[route, model]).observe(seconds);
        if has_hung_up {
            self.metrics.client_disconnects.with_label_values(&[route, model]).inc();
        }
        tracing::debug!(request_id = self.request_id, route, model, code, seconds, "request ended");
    }
}

/// Middleware around every route.
pub async fn observe(State(metrics): State<Arc<Metrics>>, mut request: Request, next: Next) -> Response {
    let request_id = client_request_id(request.headers()).unwrap_or_else(|| new_id("req_"));
    let record = Record::new(route_label(request.uri().path()), request_id, metrics);
    request.extensions_mut().insert(record.clone());
    let mut response = next.run(request).await;
    record.code.store(response.status().as_u16(), Ordering::Relaxed);
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&record.request_id) {
        headers.insert(REQUEST_ID, id);
    }
    headers.insert(PROCESSING_MS, HeaderValue::from(record.started.elapsed().as_millis() as u64));
    if let Some(model) = record.model.get().and_then(|model| HeaderValue::from_str(model).ok()) {
        headers.insert(MODEL, model);
    }
    response
}

/// Sane means: short, and of letters that no log or header minds.
fn client_request_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    let is_sane =
        (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:/".contains(&b));
    is_sane.then(|| id.to_owned())
}

fn route_label(path: &str) -> &'static str {
    match path {
        "/v1/chat/completions" => "chat_completions",
        "/v1/completions" => "completions",
        "/v1/models" => "models",
        "/healthz" | "/readyz" | "/health" | "/version" | "/metrics" => "health",
        path if path.starts_with("/v1/models/") => "models",
        _ => "other",
    }
}

/// A fresh id. Ids need to be unique, not secret: keyed hashing of a counter is enough and needs no crate.
pub fn new_id(prefix: &str) -> String {
    use std::hash::{BuildHasher, RandomState};
    use std::sync::atomic::AtomicU64;
    static KEYS: OnceLock<(RandomState, RandomState)> = OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let (high, low) = KEYS.get_or_init(|| (RandomState::new(), RandomState::new()));
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}{:016x}{:016x}", high.hash_one(count), low.hash_one(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sane_request_ids_are_taken_over() {
        for (id, is_taken) in [("abc-1_2.3:4", true), ("", false), ("a b", false), ("a\"b", false)] {
            let headers = HeaderMap::from_iter([(REQUEST_ID, HeaderValue::from_str(id).unwrap())]);
            assert_eq!(client_request_id(&headers).is_some(), is_taken, "{id:?}");
        }
        let long = HeaderValue::from_str(&"a".repeat(129)).unwrap();
        assert!(client_request_id(&HeaderMap::from_iter([(REQUEST_ID, long)])).is_none());
    }

    #[test]
    fn new_ids_differ() {
        assert_ne!(new_id("x"), new_id("x"));
    }
}
