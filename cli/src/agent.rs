//! `kindling agent`: what runs once on each node of a cluster.

mod drivers_gpu;
mod node_facts;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kindling_agent::cache::Cache;
use kindling_agent::daemon::{self, AgentConfig, Readers};
use kindling_envelope::Bytes;

use crate::{interrupt, logging};
use drivers_gpu::DriversGpu;
use node_facts::NodeFacts;

/// Watch and grant the memory of one node, and fill its cache of weights.
#[derive(clap::Args)]
pub struct Args {
    /// Name of the node in the cluster.
    #[arg(long, env = "KINDLING_NODE")]
    node: String,
    /// Where gRPC is served: an address of the node, which others are told.
    #[arg(long, value_name = "IP:PORT")]
    listen: SocketAddr,
    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, default_value = "0.0.0.0:9403", env = "KINDLING_METRICS_LISTEN")]
    metrics_listen: SocketAddr,
    /// Read meminfo, buddyinfo and pressure/memory below this folder.
    #[arg(long, default_value = "/proc", value_name = "FOLDER")]
    procfs_root: PathBuf,
    /// Read the name of the machine below this folder.
    #[arg(long, default_value = "/sys", value_name = "FOLDER")]
    sysfs_root: PathBuf,
    /// Folder of the node's cache of weights.
    #[arg(long, default_value = "/var/lib/kindling/cache", value_name = "FOLDER")]
    cache: PathBuf,
    /// How long files stay in the cache that no LocalModel names, e.g. 168h; 0s removes them at once. Sooner when a wanted
    /// download has no room. What was imported by hand stays.
    #[arg(long, value_name = "DURATION", default_value = "168h", value_parser = duration)]
    keep_unnamed: Duration,
    /// Find models below this folder; may be given several times.
    #[arg(long = "allowed-host-path-prefix", value_name = "FOLDER")]
    allowed_host_path_prefixes: Vec<PathBuf>,
    /// Who may ask for models.
    #[arg(long, value_name = "system:serviceaccount:NAMESPACE:NAME")]
    operator_account: String,
    /// Take memory back when less is available, e.g. 8GiB [default: 8 GiB, on small machines 1/12 of the memory]
    #[arg(long, value_name = "BYTES")]
    floor_run: Option<Bytes>,
    /// Start a model only if so much stays available [default: 10/8 of the other floor]
    #[arg(long, value_name = "BYTES")]
    floor_start: Option<Bytes>,
}

/// Runs `kindling agent`.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let Args {
        node,
        listen,
        metrics_listen,
        procfs_root,
        sysfs_root,
        cache,
        keep_unnamed,
        allowed_host_path_prefixes,
        operator_account,
        floor_run,
        floor_start,
    } = args;
    logging::start("info");
    let config = AgentConfig {
        node,
        listen,
        metrics_listen,
        procfs_root,
        sysfs_root,
        cache: cache.clone(),
        keep_unnamed,
        allowed_host_path_prefixes,
        operator_account,
        floor_run,
        floor_start,
    };
    let readers = Readers { facts: Arc::new(NodeFacts::new(Cache::at(cache))), gpu: Arc::new(DriversGpu) };
    Ok(daemon::run(config, readers, interrupt::token()?).await?)
}

/// Hours, minutes and seconds, each with its letter, e.g. `168h` or `1h30m`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration like 168h, 30m or 0s");
    let mut seconds: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !letter.is_ascii_digit()).ok_or_else(wrong)?;
        let unit = match rest.as_bytes()[end] {
            b'h' => 3600,
            b'm' => 60,
            b's' => 1,
            _ => return Err(wrong()),
        };
        let number: u64 = rest[..end].parse().map_err(|_| wrong())?;
        seconds = number.checked_mul(unit).and_then(|part| seconds.checked_add(part)).ok_or_else(wrong)?;
        rest = &rest[end + 1..];
    }
    if text.is_empty() { Err(wrong()) } else { Ok(Duration::from_secs(seconds)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, seconds) in [("168h", 604_800), ("0s", 0), ("1h30m", 5400), ("90s", 90)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "5", "h", "1d", "-1s", "1h ", "1.5h", "1µ", "99999999999999999999h", "9999999999999999h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
