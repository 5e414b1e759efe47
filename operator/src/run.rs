//! The life of an operator: connect, wait for the lease, reconcile, end in order.

use std::sync::Arc;

use futures::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use kindling_api::{MANAGER, MODEL_LABEL, NodeEnvelope};
use kube::Client;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::{WatchStreamExt as _, watcher};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::admission::https::{self, Served};
use crate::admission::keeper::Keeper;
use crate::admission::{self, Admission};
use crate::agents::GrpcAgents;
use crate::config::OperatorConfig;
use crate::controller::{self, Context};
use crate::facts::FactsCache;
use crate::http;
use crate::lease::Election;
use crate::metrics::Metrics;
use crate::placement::Placement;
use crate::runtime_info::GrpcRuntimeInfo;

/// The operator ended otherwise than it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No kubeconfig, no service account, or no API server.
    #[error("connecting to the cluster")]
    Connect(#[source] kube::Error),
    /// The port is taken.
    #[error("listening on {address}")]
    Listen {
        /// What was asked for.
        address: std::net::SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The webhook can't speak TLS.
    #[error("preparing the webhook's TLS")]
    WebhookTls(#[source] rustls::Error),
    /// Two metrics of one name.
    #[error("registering the metrics")]
    RegisterMetrics(#[source] prometheus::Error),
    /// Another operator may work now, so this one must not.
    #[error("the lease {name} was lost")]
    LeaseLost {
        /// Its name.
        name: String,
    },
    /// The controller panicked or ran out of events: nobody would reconcile under a lease that is still held.
    #[error("the controller ended though nobody asked it to")]
    ControllerEnded,
}

/// Why the work is over.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Asked,
    LeaseLost,
    ControllerEnded,
}

impl RunError {
    /// A word for logs and exit messages.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Listen { .. } => "listen",
            Self::WebhookTls(_) => "webhook_tls",
            Self::RegisterMetrics(_) => "register_metrics",
            Self::LeaseLost { .. } => "lease_lost",
            Self::ControllerEnded => "controller_ended",
        }
    }
}

/// Runs the operator until the token is cancelled.
///
/// # Errors
/// If it can't start, or lost its lease: the process should end then, and be started again.
pub async fn run(config: OperatorConfig, shutdown: CancellationToken) -> Result<(), RunError> {
    let client = Client::try_default().await.map_err(RunError::Connect)?;
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
    let admission = Arc::new(Admission::new(config.clone()));
    let webhook = webhook(&client, &config, &admission, shutdown.child_token()).await?;

    let mut election = Election::new(client.clone(), &config.lease_namespace, &config.lease_name, &config.identity);
    tracing::info!(lease = config.lease_name, identity = config.identity, "waiting for the lease");
    tokio::select! {
        () = election.acquire() => {}
        () = shutdown.cancelled() => return Ok(()),
    }
    tracing::info!(namespace = config.namespace.as_deref().unwrap_or("all"), "reconciling LocalModels");

    let lease_name = config.lease_name.clone();
    let stop = shutdown.child_token();
    let mut reconciles = tokio::spawn(reconcile_all(client, config, metrics, admission, stop.clone()));
    match work(election.hold(), &mut reconciles, &shutdown).await {
        End::LeaseLost => {
            // at once and not in order: another operator may already be at work
            reconciles.abort();
            server.abort();
            webhook.abort();
            Err(RunError::LeaseLost { name: lease_name })
        }
        End::ControllerEnded => {
            server.abort();
            webhook.abort();
            election.release().await; // nothing works under it any more
            Err(RunError::ControllerEnded)
        }
        End::Asked => {
            stop.cancel();
            // a panic in there has been reported by the panic hook already
            let _ = tokio::join!(reconciles, server, webhook);
            election.release().await;
            Ok(())
        }
    }
}

/// Serves the webhook beside everything else; a standby operator does too.
async fn webhook(
    client: &Client,
    config: &OperatorConfig,
    admission: &Arc<Admission>,
    shutdown: CancellationToken,
) -> Result<JoinHandle<()>, RunError> {
    let Some(webhook) = &config.webhook else { return Ok(tokio::spawn(async {})) };
    let address = webhook.listen;
    let listener = http::listen(address).await.map_err(|source| RunError::Listen { address, source })?;
    let served = Arc::new(Served::default());
    let tls = https::server_config(Arc::clone(&served)).map_err(RunError::WebhookTls)?;
    let keeper = Keeper::new(client.clone(), config, webhook, served);
    let server = https::serve(listener, tls, admission::router(Arc::clone(admission)), shutdown.clone());
    Ok(tokio::spawn(async move {
        tokio::join!(server, keeper.run(shutdown));
    }))
}

/// Waits for the first reason to end. Being asked comes first: it ends the controller too.
async fn work(hold: impl Future<Output = ()>, reconciles: &mut JoinHandle<()>, shutdown: &CancellationToken) -> End {
    tokio::select! {
        biased;
        () = shutdown.cancelled() => End::Asked,
        _ = reconciles => End::ControllerEnded,
        () = hold => End::LeaseLost,
    }
}

async fn reconcile_all(
    client: Client,
    config: OperatorConfig,
    metrics: Arc<Metrics>,
    admission: Arc<Admission>,
    stop: CancellationToken,
) {
    let (controller, store) = controller::controller(&client, config.namespace.as_deref());
    metrics.count_models_of(store);
    let reporter = Reporter { controller: MANAGER.to_owned(), instance: Some(config.identity.clone()) };
    let recorder = Recorder::new(client.clone(), reporter);
    let wake = Arc::new(Notify::new());
    let agents = Arc::new(GrpcAgents::new(config.agent_token_file.clone()));
    let facts = Arc::new(FactsCache::new(agents, Arc::clone(&wake)));
    let (changed, placed) = mpsc::unbounded_channel();
    let placement = Arc::new(Placement::new(client.clone(), config.clone(), facts, wake, changed));
    admission.follow(Arc::clone(&placement));
    let rounds = tokio::spawn({
        let (placement, stop) = (Arc::clone(&placement), stop.clone());
        async move { placement.run(stop).await }
    });
    let watching =
        tokio::spawn(wake_on_changes(client.clone(), config.namespace.clone(), Arc::clone(&placement), stop.clone()));
    let cx = Context { client, config, placement, runtime: Arc::new(GrpcRuntimeInfo), recorder, metrics };
    let reconciles = controller::run(controller, Arc::new(cx), UnboundedReceiverStream::new(placed), stop);
    // A panic in one of them ends all: nobody would decide under a lease that is still held.
    tokio::select! {
        () = reconciles => {}
        Err(panic) = rounds => std::panic::resume_unwind(panic.into_panic()),
        Err(panic) = watching => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// What agents measure changes what may start, and so does a request for a model that is not there.
async fn wake_on_changes(
    client: Client,
    namespace: Option<String>,
    placement: Arc<Placement>,
    stop: CancellationToken,
) {
    let envelopes = kube::Api::<NodeEnvelope>::all(client.clone());
    let leases: kube::Api<Lease> = match namespace {
        Some(namespace) => kube::Api::namespaced(client, &namespace),
        None => kube::Api::all(client),
    };
    let of_models = watcher::Config::default().labels(MODEL_LABEL);
    let envelopes = watcher(envelopes, watcher::Config::default()).default_backoff().map(|event| event.map(drop));
    let leases = watcher(leases, of_models).default_backoff().map(|event| event.map(drop));
    let mut events = std::pin::pin!(futures::stream::select(envelopes, leases));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            event = events.next() => match event {
                Some(Ok(())) => placement.wake(),
                Some(Err(error)) => {
                    tracing::warn!(%error, "watching nodes' memory fails; are the CRDs and the operator's roles installed?");
                }
                None => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_controller_that_ends_or_panics_ends_the_operator() {
        let shutdown = CancellationToken::new();
        for is_panic in [false, true] {
            let mut reconciles = tokio::spawn(async move { assert!(!is_panic, "on purpose") });
            let end = work(std::future::pending(), &mut reconciles, &shutdown).await;
            assert_eq!(end, End::ControllerEnded);
        }
    }

    #[tokio::test]
    async fn a_controller_that_ends_because_it_was_asked_to_is_no_failure() {
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        let mut reconciles = tokio::spawn(async {});
        tokio::task::yield_now().await;
        assert_eq!(work(std::future::pending(), &mut reconciles, &shutdown).await, End::Asked);
    }
}
