//! The life of an operator: connect, wait for the lease, reconcile, end in order.

use std::sync::Arc;

use kube::Client;
use kube::runtime::events::{Recorder, Reporter};
use kindling_api::MANAGER;
use tokio_util::sync::CancellationToken;

use crate::config::OperatorConfig;
use crate::controller::{self, Context};
use crate::http;
use crate::lease::Election;
use crate::metrics::Metrics;
use crate::runtime_info::GrpcRuntimeInfo;

/// The operator ended otherwise than it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No kubeconfig, no service account, or no API server.
    #[error("connecting to the cluster")]
    Connect(#[source] Box<kube::Error>),
    /// The port is taken.
    #[error("listening on {address}")]
    Listen {
        /// What was asked for.
        address: std::net::SocketAddr,
        #[source]
        source: std::io::Error,
    },
    /// Two metrics of one name.
    #[error("registering the metrics")]
    RegisterMetrics(#[source] prometheus::Error),
    /// Another operator may work now, so this one must not.
    #[error("the lease {name} was lost")]
    LeaseLost {
        /// Its name.
        name: String,
    },
}

impl RunError {
    /// A word for logs and exit messages.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Listen { .. } => "listen",
            Self::RegisterMetrics(_) => "register_metrics",
            Self::LeaseLost { .. } => "lease_lost",
        }
    }
}

/// Runs the operator until the token is cancelled.
///
/// # Errors
/// If it can't start, or lost its lease: the process should end then, and be started again.
pub async fn run(config: OperatorConfig, shutdown: CancellationToken) -> Result<(), RunError> {
    let client = Client::try_default().await.map_err(|source| RunError::Connect(Box::new(source)))?;
    run_with(client, config, shutdown).await
}

/// [`run`] with a client of the caller's.
///
/// # Errors
/// As [`run`].
pub async fn run_with(client: Client, config: OperatorConfig, shutdown: CancellationToken) -> Result<(), RunError> {
    let metrics = Arc::new(Metrics::new().map_err(RunError::RegisterMetrics)?);
    let address = config.metrics_listen;
    let listener = http::listen(address).await.map_err(|source| RunError::Listen { address, source })?;
    let server = tokio::spawn(http::serve(listener, metrics.clone(), shutdown.child_token()));

    let mut election = Election::new(client.clone(), &config.lease_namespace, &config.lease_name, &config.identity);
    tracing::info!(lease = config.lease_name, identity = config.identity, "waiting for the lease");
    tokio::select! {
        () = election.acquire() => {}
        () = shutdown.cancelled() => return Ok(()),
    }
    tracing::info!(namespace = config.namespace.as_deref().unwrap_or("all"), "reconciling LocalModels");

    let lease_name = config.lease_name.clone();
    let stop = shutdown.child_token();
    let reconciles = tokio::spawn(reconcile_all(client, config, metrics, stop.clone()));
    let is_lost = tokio::select! {
        () = election.hold() => true,
        () = shutdown.cancelled() => false,
    };
    if is_lost {
        // at once and not in order: another operator may already be at work
        reconciles.abort();
        server.abort();
        return Err(RunError::LeaseLost { name: lease_name });
    }
    stop.cancel();
    // a panic in there has been reported by the panic hook already
    let _ = tokio::join!(reconciles, server);
    election.release().await;
    Ok(())
}

async fn reconcile_all(client: Client, config: OperatorConfig, metrics: Arc<Metrics>, stop: CancellationToken) {
    let (controller, store) = controller::controller(&client, config.namespace.as_deref());
    metrics.count_models_of(store);
    let reporter = Reporter { controller: MANAGER.to_owned(), instance: Some(config.identity.clone()) };
    let recorder = Recorder::new(client.clone(), reporter);
    let cx = Context { client, config, runtime: Arc::new(GrpcRuntimeInfo), recorder, metrics };
    controller::run(controller, Arc::new(cx), stop).await;
}
