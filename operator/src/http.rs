//! `/healthz`, `/readyz` and `/metrics`.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Listens; separate from [`serve`], so that a taken port is an error at the start.
///
/// # Errors
/// If the address can't be had.
pub async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves until the token is cancelled. A standby operator is healthy and ready too: it is ready to take over.
pub async fn serve(listener: TcpListener, metrics: Arc<Metrics>, shutdown: CancellationToken) {
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(async || "ok\n"))
        .route("/metrics", get(async |State(metrics): State<Arc<Metrics>>| text(&metrics)))
        .with_state(metrics);
    let served = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned());
    if let Err(error) = served.await {
        tracing::error!(%error, "the metrics server ended");
    }
}

fn text(metrics: &Metrics) -> Result<String, StatusCode> {
    metrics.to_text().map_err(|error| {
        tracing::error!(%error, "metrics can't be encoded");
        StatusCode::INTERNAL_SERVER_ERROR
    })
}
