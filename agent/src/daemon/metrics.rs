//! What Prometheus hears, from what the desk saw last.

use std::sync::Arc;

use kindling_api::Pressure;
use prometheus::{Encoder, IntCounter, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

use super::desk::Snapshot;
use super::keep::CacheFigures;

/// The gauges without labels, by what they are called after `kindling_agent_`.
const GAUGES: [(&str, &str); 14] = [
    ("memory_total_bytes", "Memory of the node."),
    ("memory_available_bytes", "Memory that can be had without swapping."),
    ("memory_free_bytes", "Memory that holds nothing at all."),
    ("memory_large_blocks_bytes", "Free memory in blocks of at least 2 MiB."),
    ("memory_baseline_bytes", "Memory in use without any model."),
    ("memory_floor_start_bytes", "What must stay available when a model starts."),
    ("memory_floor_run_bytes", "Below this memory is taken back."),
    ("swap_total_bytes", "Swap of the node."),
    ("swap_used_bytes", "Of it in use."),
    ("memory_stalled_ppm", "Parts per million of the last ten seconds in which a process waited for memory."),
    ("pressure", "0 is enough memory, 1 low, 2 critical."),
    ("grants", "Runtimes that hold a grant."),
    ("grants_waiting", "Runtimes that wait for one."),
    ("memory_is_read", "1 if the memory could be read the last time."),
];

/// The agent's metrics.
pub struct Metrics {
    registry: Registry,
    gauges: Vec<IntGauge>,
    revocations: IntCounter,
    holders: IntGaugeVec,
    cache: Arc<CacheFigures>,
    cached: IntGauge,
    unnamed: IntGauge,
    freed: IntCounter,
}

impl Metrics {
    /// Registers all of them.
    ///
    /// # Errors
    /// If two have the same name, which a test excludes.
    pub fn new(cache: Arc<CacheFigures>) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let gauges = GAUGES.iter().map(|(name, help)| IntGauge::new(format!("kindling_agent_{name}"), *help));
        let gauges = gauges.collect::<Result<Vec<_>, _>>()?;
        let revocations = IntCounter::new("kindling_agent_revocations_total", "Grants that were taken back.")?;
        let holders = Opts::new("kindling_agent_holder_bytes", "What a model's process says it takes, else its grant.");
        let holders = IntGaugeVec::new(holders, &["model"])?;
        let cached = IntGauge::new("kindling_agent_cache_bytes", "What the files of the cache take on the disk.")?;
        let unnamed = IntGauge::new("kindling_agent_cache_unnamed_bytes", "Of the cache what no LocalModel names.")?;
        let freed = "What was removed from the cache because no LocalModel named it.";
        let freed = IntCounter::new("kindling_agent_cache_freed_bytes_total", freed)?;
        for gauge in gauges.iter().chain([&cached, &unnamed]) {
            registry.register(Box::new(gauge.clone()))?;
        }
        registry.register(Box::new(revocations.clone()))?;
        registry.register(Box::new(holders.clone()))?;
        registry.register(Box::new(freed.clone()))?;
        Ok(Self { registry, gauges, revocations, holders, cache, cached, unnamed, freed })
    }

    /// The text format of Prometheus.
    ///
    /// # Errors
    /// If a metric can't be encoded.
    pub fn to_text(&self, snapshot: &Snapshot) -> Result<String, prometheus::Error> {
        for (gauge, value) in self.gauges.iter().zip(values(snapshot)) {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
        self.revocations.inc_by(snapshot.num_revoked.saturating_sub(self.revocations.get()));
        let (cached, unnamed, freed) = self.cache.read();
        self.cached.set(i64::try_from(cached).unwrap_or(i64::MAX));
        self.unnamed.set(i64::try_from(unnamed).unwrap_or(i64::MAX));
        self.freed.inc_by(freed.saturating_sub(self.freed.get()));
        self.holders.reset();
        for holder in &snapshot.holders {
            let measured = holder.measured.map_or(0, |terms| terms.total_bytes);
            let bytes = if measured > 0 { measured } else { holder.granted_bytes };
            let gauge = self.holders.with_label_values(&[&holder.model]);
            gauge.set(gauge.get().saturating_add(i64::try_from(bytes).unwrap_or(i64::MAX)));
        }
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

/// In the order of [`GAUGES`].
fn values(snapshot: &Snapshot) -> [u64; GAUGES.len()] {
    let (reading, memory) = (snapshot.reading, snapshot.reading.memory);
    let pressure = match snapshot.pressure {
        Pressure::None => 0,
        Pressure::Low => 1,
        Pressure::Critical => 2,
    };
    [
        memory.total.0,
        memory.available.0,
        memory.free.0,
        reading.large_blocks.unwrap_or_default().0,
        snapshot.baseline.unwrap_or_default().0,
        snapshot.floors.start.0,
        snapshot.floors.run.0,
        memory.swap_total.0,
        memory.swap_used.0,
        reading.stalled_ppm.unwrap_or(0),
        pressure,
        snapshot.holders.len() as u64,
        snapshot.num_waiting as u64,
        u64::from(snapshot.read_at.is_some()),
    ]
}

#[cfg(test)]
mod tests {
    use kindling_api::{Holder, MeasuredTerms};
    use kindling_envelope::Bytes;

    use super::*;
    use crate::daemon::memory::{MemInfo, Reading};
    use crate::daemon::watch::Floors;

    #[test]
    fn all_metrics_register_and_say_what_the_snapshot_says() {
        let memory = MemInfo { total: Bytes(1000), available: Bytes(700), ..MemInfo::default() };
        let holder = |model: &str, measured: u64| Holder {
            model: model.to_owned(),
            granted_bytes: 100,
            measured: Some(MeasuredTerms { total_bytes: measured, ..MeasuredTerms::default() }),
            ..Holder::default()
        };
        let mut snapshot = Snapshot {
            looked: tokio::time::Instant::now(),
            read_at: None,
            reading: Reading { memory, ..Reading::default() },
            baseline: Some(Bytes(300)),
            floors: Floors::above(Bytes(80)),
            pressure: Pressure::Critical,
            holders: vec![holder("team/a", 90), holder("team/a", 0), holder("team/b", 5)],
            is_settled: true,
            num_waiting: 2,
            num_revoked: 4,
            ledger: None,
        };
        let figures = Arc::new(CacheFigures::default());
        figures.set(70, 30);
        figures.freed(12);
        let metrics = Metrics::new(figures).unwrap();
        metrics.to_text(&snapshot).unwrap();
        snapshot.holders.pop();
        let text = metrics.to_text(&snapshot).unwrap();
        for line in [
            "kindling_agent_memory_total_bytes 1000",
            "kindling_agent_memory_available_bytes 700",
            "kindling_agent_memory_baseline_bytes 300",
            "kindling_agent_memory_floor_start_bytes 100",
            "kindling_agent_pressure 2",
            "kindling_agent_grants 2",
            "kindling_agent_grants_waiting 2",
            "kindling_agent_revocations_total 4",
            "kindling_agent_memory_is_read 0",
            "kindling_agent_cache_bytes 70",
            "kindling_agent_cache_unnamed_bytes 30",
            "kindling_agent_cache_freed_bytes_total 12",
            "kindling_agent_holder_bytes{model=\"team/a\"} 190",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("team/b"), "who went is not counted any more");
    }
}
