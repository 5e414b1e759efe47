//! `/healthz`, `/readyz` and `/metrics`.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch as channel;
use tokio_util::sync::CancellationToken;

use super::desk::Snapshot;
use super::metrics::Metrics;

/// The desk looks every second; one that did not for so long hangs.
const HUNG: Duration = Duration::from_secs(10);

#[derive(Clone)]
struct Seen {
    metrics: Arc<Metrics>,
    snapshots: channel::Receiver<Snapshot>,
}

/// Serves until the token is cancelled.
pub(super) async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    snapshots: channel::Receiver<Snapshot>,
    shutdown: CancellationToken,
) {
    let router = Router::new()
        .route("/healthz", get(async |State(seen): State<Seen>| health(&seen.snapshots.borrow())))
        .route("/readyz", get(async |State(seen): State<Seen>| readiness(&seen.snapshots.borrow())))
        .route("/metrics", get(async |State(seen): State<Seen>| text(&seen)))
        .with_state(Seen { metrics: Arc::new(metrics), snapshots });
    let served = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned());
    if let Err(error) = served.await {
        tracing::error!(%error, "the metrics server ended");
    }
}

fn health(snapshot: &Snapshot) -> (StatusCode, &'static str) {
    match snapshot.looked.elapsed() < HUNG {
        true => (StatusCode::OK, "ok\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "nobody looks at the memory\n"),
    }
}

/// Ready is one who could grant.
fn readiness(snapshot: &Snapshot) -> (StatusCode, &'static str) {
    if snapshot.read_at.is_none() {
        return (StatusCode::SERVICE_UNAVAILABLE, "the memory can't be read\n");
    }
    if snapshot.ledger.is_none() {
        return (StatusCode::SERVICE_UNAVAILABLE, "the NodeEnvelope was not read yet\n");
    }
    health(snapshot)
}

fn text(seen: &Seen) -> Result<String, StatusCode> {
    seen.metrics.to_text(&seen.snapshots.borrow()).map_err(|error| {
        tracing::error!(%error, "metrics can't be encoded");
        StatusCode::INTERNAL_SERVER_ERROR
    })
}
