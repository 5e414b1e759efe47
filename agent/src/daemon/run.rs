//! The life of an agent: read the memory, connect, start the tasks, end in order.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kindling_envelope::Bytes;
use kube::Client;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::desk::Desk;
use super::downloads::{Downloads, Store};
use super::gate::{ApiServer, Gate};
use super::gpu::{self, ReadGpu};
use super::memory::{MemoryError, Reader, product};
use super::metrics::Metrics;
use super::publish::{self, Identity, Sources};
use super::service::{self, AgentService, ReadFacts};
use super::watch::Floors;
use super::{http, memory};
use crate::cache::Cache;
use crate::hub::Hub;

/// Everything that `kindling agent` can be told.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// The node's name in the cluster.
    pub node: String,
    /// Where gRPC is served: an address of the node that its pods and the operator reach.
    pub listen: SocketAddr,
    /// Where `/healthz`, `/readyz` and `/metrics` are served.
    pub metrics_listen: SocketAddr,
    /// Usually `/proc`.
    pub procfs_root: PathBuf,
    /// Usually `/sys`.
    pub sysfs_root: PathBuf,
    /// The node's cache of weights.
    pub cache: PathBuf,
    /// How long files stay in it that no LocalModel names.
    pub keep_unnamed: Duration,
    /// Models below these folders need no cache.
    pub allowed_host_path_prefixes: Vec<PathBuf>,
    /// `system:serviceaccount:NAMESPACE:NAME`.
    pub operator_account: String,
    /// Below this memory is taken back; `None` is what the envelope keeps free.
    pub floor_run: Option<Bytes>,
    /// What must stay available when a model starts; `None` is a quarter more.
    pub floor_start: Option<Bytes>,
}

/// What only others know to read.
#[derive(Clone)]
pub struct Readers {
    /// Models' heads.
    pub facts: Arc<dyn ReadFacts>,
    /// The GPU.
    pub gpu: Arc<dyn ReadGpu>,
}

/// The agent can't start, or ended otherwise than it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No kubeconfig, no service account, or no API server.
    #[error("connecting to the cluster")]
    Connect(#[source] kube::Error),
    /// The port is taken, or the address is not the node's.
    #[error("listening on {address}")]
    Listen {
        /// What was asked for.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Others would be told to connect to nowhere.
    #[error("--listen {0} names no address of the node: others are told it, so it can't be a wildcard")]
    Wildcard(SocketAddr),
    /// A model that just started would be taken back.
    #[error("the floor for a start, {start}, is below the floor while models run, {run}")]
    Floors {
        /// While models run.
        run: Bytes,
        /// For a start.
        start: Bytes,
    },
    /// There is nothing to grant.
    #[error("reading the memory")]
    Memory(#[from] MemoryError),
    /// Two metrics of one name.
    #[error("registering the metrics")]
    RegisterMetrics(#[source] prometheus::Error),
    /// The sockets failed.
    #[error("serving gRPC")]
    Serve(#[source] tonic::transport::Error),
    /// A task panicked: nobody would watch the memory.
    #[error("the task that {0} ended though nobody asked it to")]
    TaskEnded(&'static str),
}

/// Runs the agent until the token is cancelled.
///
/// # Errors
/// If it can't start, or a task ended: the process should end then, and be started again.
pub async fn run(config: AgentConfig, readers: Readers, shutdown: CancellationToken) -> Result<(), RunError> {
    let client = Client::try_default().await.map_err(RunError::Connect)?;
    run_with(client, config, readers, shutdown).await
}

/// [`run`] with a client of the caller's.
///
/// # Errors
/// As [`run`].
pub async fn run_with(
    client: Client,
    config: AgentConfig,
    readers: Readers,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    let reader = Reader::new(&config.procfs_root)?;
    let reading = reader.read()?;
    let floors = floors(&config, &reading)?;
    let listener = listen(config.listen).await?;
    let metrics_listener = listen(config.metrics_listen).await?;
    let address = listener.local_addr().unwrap_or(config.listen);
    if address.ip().is_unspecified() {
        return Err(RunError::Wildcard(address));
    }
    let identity =
        Identity { node: config.node.clone(), address: address.to_string(), product: product(&config.sysfs_root) };
    if reading.large_blocks.is_none() {
        tracing::warn!("there is no buddyinfo, so free memory in large blocks is reported as 0");
    }
    tracing::info!(?identity, total = %reading.memory.total, floor_run = %floors.run, "watching the memory");

    // Whatever ends first ends all of it.
    let stop = shutdown.child_token();
    let (desk, handle, snapshots) = Desk::new(reader, reading, floors);
    let (cache, hub) = (Cache::at(&config.cache), Hub::from_environment());
    let (keep_unnamed, node_name) = (config.keep_unnamed, config.node.clone());
    let store = Store { cache, hub, keep_unnamed, node_name, node: snapshots.clone() };
    let downloads = Arc::new(Downloads::new(store, stop.clone()));
    let metrics = Metrics::new(downloads.figures()).map_err(RunError::RegisterMetrics)?;
    let counted = downloads.clone();
    tokio::spawn(async move { counted.count().await });
    let service = AgentService {
        gate: Gate::new(Arc::new(ApiServer(client.clone())), &config.node, &config.operator_account),
        desk: handle.clone(),
        downloads,
        facts: readers.facts,
        allowed_host_path_prefixes: config.allowed_host_path_prefixes,
        shutdown: stop.clone(),
    };
    let mut desk = tokio::spawn(desk.run(stop.clone()));
    let mut server = tokio::spawn(service::serve(listener, service));
    let mut follow = tokio::spawn(publish::follow(client.clone(), config.node, handle, stop.clone()));
    let (mut gpu, gpus) = gpu::start(readers.gpu, stop.clone());
    let sources = Sources { snapshots: snapshots.clone(), gpus };
    let mut publish = tokio::spawn(publish::publish(client, identity, sources, stop.clone()));
    let mut web = tokio::spawn(http::serve(metrics_listener, metrics, snapshots, stop.clone()));
    let ended = tokio::select! {
        biased;
        () = shutdown.cancelled() => None,
        _ = &mut desk => Some("watches the memory"),
        _ = &mut follow => Some("reads the ledger"),
        _ = &mut publish => Some("publishes"),
        _ = &mut gpu => Some("looks at the GPU"),
        _ = &mut web => Some("serves metrics"),
        result = &mut server => match result {
            Ok(Err(error)) => { stop.cancel(); return Err(RunError::Serve(error)) }
            _ => Some("serves gRPC"),
        },
    };
    stop.cancel();
    if let Some(task) = ended {
        return Err(RunError::TaskEnded(task));
    }
    // a panic in there has been reported by the panic hook already
    let _ = tokio::join!(desk, server, follow, publish, gpu, web);
    Ok(())
}

fn floors(config: &AgentConfig, reading: &memory::Reading) -> Result<Floors, RunError> {
    let mut floors = config.floor_run.map_or_else(|| Floors::of(reading.memory.total), Floors::above);
    floors.start = config.floor_start.unwrap_or(floors.start);
    if floors.start < floors.run {
        return Err(RunError::Floors { run: floors.run, start: floors.start });
    }
    Ok(floors)
}

async fn listen(address: SocketAddr) -> Result<TcpListener, RunError> {
    TcpListener::bind(address).await.map_err(|source| RunError::Listen { address, source })
}
