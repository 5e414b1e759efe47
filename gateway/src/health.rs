//! Whether the gateway lives, is ready, and which version it is.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::body;
use crate::error::{ApiError, ErrorKind};
use crate::router::App;

#[derive(Serialize)]
struct Status {
    status: &'static str,
}

#[derive(Serialize)]
struct Version {
    version: &'static str,
}

/// `GET /healthz`, `GET /health`: the process answers.
pub async fn alive() -> Result<Response, ApiError> {
    body::json(&Status { status: "ok" })
}

/// `GET /readyz`: the models are known. Whether one of them is ready is the model's matter, not the gateway's.
pub async fn ready(State(app): State<App>) -> Response {
    if app.routes.table().is_synced {
        body::json(&Status { status: "ok" }).into_response()
    } else {
        ApiError::new(ErrorKind::ModelUnavailable, "the list of models is still being read").into_response()
    }
}

/// `GET /version`.
pub async fn version() -> Result<Response, ApiError> {
    body::json(&Version { version: env!("CARGO_PKG_VERSION") })
}
