//! `kindling agent`: what runs once on each node of a cluster.

mod node_facts;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use kindling_agent::cache::Cache;
use kindling_agent::daemon::{self, AgentConfig};
use kindling_envelope::Bytes;

use crate::{interrupt, logging};
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
        allowed_host_path_prefixes,
        operator_account,
        floor_run,
        floor_start,
    };
    Ok(daemon::run(config, Arc::new(NodeFacts::new(Cache::at(cache))), interrupt::token()?).await?)
}
