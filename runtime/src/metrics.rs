//! What the runtime measures, in Prometheus' text format. A registry of its own, no globals.

use std::sync::{Mutex, PoisonError};

use kindling_engine::{Counters, Load};
use kindling_kernels::MemoryUse;
use prometheus::core::Collector;
use prometheus::{
    Encoder as _, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

/// First tokens come within 50 ms (short prompt, warm) or minutes (a long prompt on a processor).
const FIRST_TOKEN_SECONDS: &[f64] =
    &[0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0];
/// From 2 ms (small models) to seconds (a prompt is computed in between).
const INTER_TOKEN_SECONDS: &[f64] =
    &[0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0];
/// From nothing to a full queue.
const QUEUE_SECONDS: &[f64] =
    &[0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];

/// From 10 µs (usual) to the bound on one mask.
const MASK_SECONDS: &[f64] = &[1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 1.0];
/// From a small schema to the bound on the largest.
const COMPILE_SECONDS: &[f64] = &[5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

/// All metrics of one runtime.
pub struct Metrics {
    registry: Registry,
    /// Ended sequences, by `finish_reason`: stop, length, abort, error.
    pub requests_total: IntCounterVec,
    /// Tokens of prompts that were computed.
    pub prompt_tokens_total: IntCounter,
    /// Tokens generated.
    pub generation_tokens_total: IntCounter,
    /// From the request's arrival to its first token.
    pub time_to_first_token_seconds: Histogram,
    /// Between two tokens of a sequence.
    pub inter_token_latency_seconds: Histogram,
    /// From the request's arrival to its first step.
    pub request_queue_seconds: Histogram,
    /// To find the tokens that a grammar allows next.
    pub grammar_mask_seconds: Histogram,
    /// From a form to a grammar, the wait for a place included.
    pub grammar_compile_seconds: Histogram,
    /// From start to ready.
    pub model_load_seconds: Gauge,
    preemptions_total: IntCounter,
    prefix_cache_queries_total: IntCounter,
    prefix_cache_hits_total: IntCounter,
    kv_cache_evictions_total: IntCounter,
    spec_decode_draft_tokens_total: IntCounter,
    spec_decode_accepted_tokens_total: IntCounter,
    /// The engine counts by itself; these have been added to the metrics.
    counted: Mutex<Counters>,
    requests_running: IntGauge,
    requests_waiting: IntGauge,
    kv_cache_usage_ratio: Gauge,
    kv_cache_blocks: IntGaugeVec,
    memory_bytes: IntGaugeVec,
    model_info: GaugeVec,
}

/// What identifies the served model.
#[derive(Debug, Clone, Copy)]
pub struct ModelLabels<'a> {
    /// As served.
    pub model: &'a str,
    /// E.g. `LlamaForCausalLM`.
    pub architecture: &'a str,
    /// E.g. `Q4_1`.
    pub quantization: &'a str,
    /// Which backend computes.
    pub backend: &'a str,
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let registry = Registry::new();
        let r = &registry;
        let counter = |name, help| register(r, IntCounter::with_opts(Opts::new(full(name), help)));
        let gauge = |name, help| register(r, Gauge::with_opts(Opts::new(full(name), help)));
        let int_gauge = |name, help| register(r, IntGauge::with_opts(Opts::new(full(name), help)));
        let gauges = |name, help, label| register(r, IntGaugeVec::new(Opts::new(full(name), help), &[label]));
        let histogram = |name, help, buckets: &[f64]| {
            register(r, Histogram::with_opts(HistogramOpts::new(full(name), help).buckets(buckets.to_vec())))
        };
        let labels = ["model", "architecture", "quantization", "backend", "version"];
        let info = GaugeVec::new(Opts::new(full("model_info"), "The served model; always 1."), &labels);
        let ended = Opts::new(full("requests_total"), "Ended completions, by reason.");
        Self {
            requests_total: register(r, IntCounterVec::new(ended, &["finish_reason"])),
            prompt_tokens_total: counter("prompt_tokens_total", "Tokens of prompts."),
            generation_tokens_total: counter("generation_tokens_total", "Generated tokens."),
            time_to_first_token_seconds: histogram(
                "time_to_first_token_seconds",
                "From a request's arrival to its first token.",
                FIRST_TOKEN_SECONDS,
            ),
            inter_token_latency_seconds: histogram(
                "inter_token_latency_seconds",
                "Between two tokens of a completion.",
                INTER_TOKEN_SECONDS,
            ),
            request_queue_seconds: histogram(
                "request_queue_seconds",
                "From a request's arrival to its first step.",
                QUEUE_SECONDS,
            ),
            grammar_mask_seconds: histogram("grammar_mask_seconds", "To find a grammar's next tokens.", MASK_SECONDS),
            grammar_compile_seconds: histogram("grammar_compile_seconds", "From form to grammar.", COMPILE_SECONDS),
            preemptions_total: counter("preemptions_total", "Completions that lost their KV blocks for a while."),
            prefix_cache_queries_total: counter("prefix_cache_queries_total", "Prompt tokens looked up in the cache."),
            prefix_cache_hits_total: counter("prefix_cache_hits_total", "Tokens of prompts that the prefix cache had."),
            kv_cache_evictions_total: counter("kv_cache_evictions_total", "Cached blocks that made room for others."),
            spec_decode_draft_tokens_total: counter("spec_decode_draft_tokens_total", "Tokens guessed ahead."),
            spec_decode_accepted_tokens_total: counter("spec_decode_accepted_tokens_total", "Guesses that were right."),
            counted: Mutex::default(),
            model_load_seconds: gauge("model_load_seconds", "From start to ready."),
            requests_running: int_gauge("requests_running", "Completions that hold KV blocks."),
            requests_waiting: int_gauge("requests_waiting", "Completions that wait for KV blocks."),
            kv_cache_usage_ratio: gauge("kv_cache_usage_ratio", "Used share of the KV blocks."),
            kv_cache_blocks: gauges("kv_cache_blocks", "KV blocks, by state.", "state"),
            memory_bytes: gauges("memory_bytes", "Bytes held by the model, by kind.", "kind"),
            model_info: register(r, info),
            registry,
        }
    }

    /// What the scheduler has in hand.
    #[expect(clippy::cast_precision_loss, reason = "a ratio need not be exact")]
    pub fn set_load(&self, load: Load) {
        self.requests_running.set(gauge_value(load.num_running));
        self.requests_waiting.set(gauge_value(load.num_waiting));
        self.kv_cache_usage_ratio.set(load.blocks_used as f64 / load.blocks_total.max(1) as f64);
        for (state, count) in [("used", load.blocks_used), ("free", load.blocks_total - load.blocks_used)] {
            self.kv_cache_blocks.with_label_values(&[state]).set(gauge_value(count));
        }
        self.count(load.counters);
    }

    fn count(&self, counters: Counters) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *counted, counters);
        for (metric, after, before) in [
            (&self.preemptions_total, counters.preemptions, before.preemptions),
            (&self.prefix_cache_queries_total, counters.prefix_cache_queries, before.prefix_cache_queries),
            (&self.prefix_cache_hits_total, counters.prefix_cache_hits, before.prefix_cache_hits),
            (&self.kv_cache_evictions_total, counters.evictions, before.evictions),
            (&self.spec_decode_draft_tokens_total, counters.draft_tokens, before.draft_tokens),
            (&self.spec_decode_accepted_tokens_total, counters.accepted_tokens, before.accepted_tokens),
        ] {
            metric.inc_by(after.saturating_sub(before));
        }
    }

    /// What the prepared model holds.
    pub fn set_memory(&self, memory: MemoryUse) {
        let MemoryUse { weight_bytes, kv_cache_bytes, activation_bytes } = memory;
        for (kind, bytes) in
            [("weights", weight_bytes), ("kv_cache", kv_cache_bytes), ("activations", activation_bytes)]
        {
            self.memory_bytes.with_label_values(&[kind]).set(gauge_value(bytes));
        }
    }

    /// Which model it is.
    pub fn set_model(&self, labels: ModelLabels<'_>) {
        let ModelLabels { model, architecture, quantization, backend } = labels;
        let values = [model, architecture, quantization, backend, env!("CARGO_PKG_VERSION")];
        self.model_info.with_label_values(&values).set(1.0);
    }

    /// The text that Prometheus reads.
    pub fn encode(&self) -> String {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text).expect("metrics should be of one kind per name");
        String::from_utf8(text).expect("metrics should be text")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn full(name: &str) -> String {
    format!("kindling_runtime_{name}")
}

fn gauge_value(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: prometheus::Result<C>) -> C {
    let metric = metric.expect("metric options should be valid");
    registry.register(Box::new(metric.clone())).expect("metric names should be unique");
    metric
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_the_runtimes_prefix() {
        let metrics = Metrics::new();
        let counters = |prefix_cache_hits| Counters { prefix_cache_hits, ..Counters::default() };
        let load = Load { num_running: 1, num_waiting: 2, blocks_used: 3, blocks_total: 12, counters: counters(5) };
        metrics.set_load(load);
        metrics.set_load(Load { counters: counters(7), ..load });
        metrics.set_memory(MemoryUse::default());
        metrics.requests_total.with_label_values(&["stop"]).inc();
        let text = metrics.encode();
        assert!(text.contains("kindling_runtime_kv_cache_usage_ratio 0.25"));
        assert!(text.contains("kindling_runtime_prefix_cache_hits_total 7"));
        assert!(text.contains("kindling_runtime_requests_total{finish_reason=\"stop\"} 1"));
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(line.starts_with("kindling_runtime_"), "{line}");
        }
    }
}
