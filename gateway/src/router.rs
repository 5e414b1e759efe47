//! The list of endpoints, and what they share.

use std::sync::Arc;

use axum::Router;
use axum::middleware;
use axum::routing::{get, post};
use http::{Method, Uri};
use tokio_util::sync::CancellationToken;

use crate::activation::Activation;
use crate::config::Timeouts;
use crate::discovery::Routes;
use crate::error::{ApiError, ErrorKind};
use crate::metrics::{self, Metrics};
use crate::observe::observe;
use crate::{health, openai};

/// What every endpoint can reach. Cheap to clone.
#[derive(Clone)]
pub struct App {
    pub routes: Arc<Routes>,
    pub activation: Arc<Activation>,
    pub metrics: Arc<Metrics>,
    pub force_include_usage: bool,
    pub max_body_bytes: usize,
    pub timeouts: Timeouts,
    /// Cancelled when running requests must end at once.
    pub closing: CancellationToken,
    /// When the gateway started, in seconds since 1970.
    pub started: i64,
}

/// Every endpoint of the API's port.
pub fn api(app: App, with_metrics: bool) -> Router {
    let metrics = app.metrics.clone();
    let mut router = Router::new()
        .route("/v1/chat/completions", post(openai::chat::create))
        .route("/v1/completions", post(openai::completions::create))
        .route("/v1/models", get(openai::models::list))
        .route("/v1/models/{*id}", get(openai::models::retrieve))
        .route("/healthz", get(health::alive))
        .route("/health", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/version", get(health::version))
        .with_state(app);
    if with_metrics {
        router = router.merge(metrics_only(metrics.clone()));
    }
    router
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(metrics, observe))
}

/// The endpoints of a metrics port.
pub fn metrics_only(metrics: Arc<Metrics>) -> Router {
    Router::new().route("/metrics", get(metrics::serve)).with_state(metrics)
}

async fn unknown_path(method: Method, uri: Uri) -> ApiError {
    ApiError::new(ErrorKind::UnknownPath, format!("unknown URL: {method} {}", uri.path()))
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    ApiError::new(ErrorKind::MethodNotAllowed, format!("{} does not answer to {method}", uri.path()))
}
