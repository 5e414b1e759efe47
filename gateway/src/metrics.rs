//! What the gateway counts, in a registry of its own.
//!
//! Labels come from closed sets: routes from the router, models from the route table, codes from HTTP.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header;
use prometheus::{Encoder, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};
use std::sync::Arc;

/// Requests take from a millisecond (a refusal) to many minutes (an agent's turn on a small machine).
const REQUEST_BUCKETS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1., 2.5, 5., 10., 20., 40., 80., 160., 320., 640., 1280.];
/// vLLM's buckets, so that dashboards compare.
const TTFT_BUCKETS: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1., 2.5, 5., 7.5, 10., 20., 40., 80., 160., 640.,
];
const ITL_BUCKETS: &[f64] =
    &[0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1., 2.5, 5., 10.];

/// The gateway's metric families.
pub struct Metrics {
    registry: Registry,
    /// Finished requests by route, model and code; 499 is a client that hung up.
    pub requests: IntCounterVec,
    /// From the request's head to the answer's last byte.
    pub duration: HistogramVec,
    /// From the request's head to the first content.
    pub time_to_first_token: HistogramVec,
    /// Between two content deltas of one choice.
    pub inter_token_latency: HistogramVec,
    /// Tokens of prompts.
    pub prompt_tokens: IntCounterVec,
    /// Tokens generated.
    pub generation_tokens: IntCounterVec,
    /// Requests being answered.
    pub in_flight: IntGaugeVec,
    /// Clients that hung up before their answer was complete.
    pub client_disconnects: IntCounterVec,
}

impl Metrics {
    /// Registers every family.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(format!("kindling_gateway_{name}"), help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let histogram = |name: &str, help: &str, labels: &[&str], buckets: &[f64]| {
            let options = HistogramOpts::new(format!("kindling_gateway_{name}"), help).buckets(buckets.to_vec());
            let histogram = HistogramVec::new(options, labels)?;
            registry.register(Box::new(histogram.clone()))?;
            Ok::<_, prometheus::Error>(histogram)
        };
        let in_flight =
            IntGaugeVec::new(Opts::new("kindling_gateway_requests_in_flight", "Requests being answered."), &["route"])?;
        registry.register(Box::new(in_flight.clone()))?;
        Ok(Self {
            requests: counter("requests_total", "Finished requests; code 499 hung up.", &["route", "model", "code"])?,
            duration: histogram(
                "request_duration_seconds",
                "From the request's head to the answer's last byte.",
                &["route", "model"],
                REQUEST_BUCKETS,
            )?,
            time_to_first_token: histogram(
                "time_to_first_token_seconds",
                "From the request's head to the first content.",
                &["route", "model"],
                TTFT_BUCKETS,
            )?,
            inter_token_latency: histogram(
                "inter_token_latency_seconds",
                "Between two content deltas of one choice.",
                &["route", "model"],
                ITL_BUCKETS,
            )?,
            prompt_tokens: counter("prompt_tokens_total", "Tokens of prompts.", &["model"])?,
            generation_tokens: counter("generation_tokens_total", "Tokens generated.", &["model"])?,
            client_disconnects: counter(
                "client_disconnects_total",
                "Clients that hung up before their answer was complete.",
                &["route", "model"],
            )?,
            in_flight,
            registry,
        })
    }
}

/// `GET /metrics`, in Prometheus' text format.
pub async fn serve(State(metrics): State<Arc<Metrics>>) -> Response {
    let mut text = Vec::new();
    let encoder = TextEncoder::new();
    match encoder.encode(&metrics.registry.gather(), &mut text) {
        Ok(()) => ([(header::CONTENT_TYPE, encoder.format_type().to_owned())], text).into_response(),
        Err(error) => (http::StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
