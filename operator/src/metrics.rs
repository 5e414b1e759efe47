//! What the operator counts.

use std::sync::OnceLock;

use kindling_api::LocalModel;
use kube::runtime::reflector::Store;
use prometheus::{Encoder, Histogram, HistogramOpts, HistogramTimer, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};

/// The operator's metrics.
pub struct Metrics {
    registry: Registry,
    reconcile_duration_seconds: Histogram,
    reconcile_failures_total: IntCounterVec,
    models: IntGaugeVec,
    store: OnceLock<Store<LocalModel>>,
}

impl Metrics {
    /// Registers all of them.
    ///
    /// # Errors
    /// If two have the same name, which a test excludes.
    pub fn new() -> Result<Self, prometheus::Error> {
        let duration = HistogramOpts::new(
            "kindling_operator_reconcile_duration_seconds",
            "Time that one reconcile of a LocalModel takes.",
        );
        let failures = Opts::new("kindling_operator_reconcile_failures_total", "Reconciles that failed, by step.");
        let models = Opts::new("kindling_operator_models", "LocalModels, by whether they are ready.");
        let metrics = Self {
            registry: Registry::new(),
            reconcile_duration_seconds: Histogram::with_opts(duration)?,
            reconcile_failures_total: IntCounterVec::new(failures, &["category"])?,
            models: IntGaugeVec::new(models, &["ready"])?,
            store: OnceLock::new(),
        };
        metrics.registry.register(Box::new(metrics.reconcile_duration_seconds.clone()))?;
        metrics.registry.register(Box::new(metrics.reconcile_failures_total.clone()))?;
        metrics.registry.register(Box::new(metrics.models.clone()))?;
        Ok(metrics)
    }

    /// Measures until it is dropped.
    pub fn start_reconcile(&self) -> HistogramTimer {
        self.reconcile_duration_seconds.start_timer()
    }

    /// Counts a reconcile that failed.
    pub fn count_failure(&self, category: &str) {
        self.reconcile_failures_total.with_label_values(&[category]).inc();
    }

    /// Where the models are counted from; the first one stays.
    pub fn count_models_of(&self, store: Store<LocalModel>) {
        // a second store would be a second controller in one process, which nobody starts
        let _ = self.store.set(store);
    }

    /// The text format of Prometheus.
    ///
    /// # Errors
    /// If a metric can't be encoded.
    pub fn to_text(&self) -> Result<String, prometheus::Error> {
        if let Some(store) = self.store.get() {
            let models = store.state();
            let ready = models.iter().filter(|model| model.is_ready()).count();
            self.models.with_label_values(&["true"]).set(i64::try_from(ready).unwrap_or(i64::MAX));
            self.models.with_label_values(&["false"]).set(i64::try_from(models.len() - ready).unwrap_or(i64::MAX));
        }
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::Metrics;

    #[test]
    fn all_metrics_register_and_encode() {
        let metrics = Metrics::new().unwrap();
        metrics.count_failure("apply");
        drop(metrics.start_reconcile());
        let text = metrics.to_text().unwrap();
        assert!(text.contains("kindling_operator_reconcile_failures_total{category=\"apply\"} 1"), "{text}");
        assert!(text.contains("kindling_operator_reconcile_duration_seconds_count 1"), "{text}");
    }
}
