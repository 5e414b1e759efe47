//! From bytes on the wire to a typed body: size and time limits, and errors that name field and position.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::header;
use serde::de::DeserializeOwned;

use crate::error::{ApiError, ErrorKind};

/// What is read and thrown away of a body that is too large. A connection that closes with unread bytes is reset, and
/// the client would never see the 413; but nobody should make us read for ever.
const DISCARD_BYTES: usize = 64 << 20;
const DISCARD_TIME: Duration = Duration::from_secs(5);

/// Reads the whole body.
pub async fn read(request: Request, max_bytes: usize, deadline: Duration) -> Result<Bytes, ApiError> {
    let declared =
        request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok()).unwrap_or(0);
    let waits_for_permission = request.headers().contains_key(header::EXPECT);
    if declared > max_bytes && waits_for_permission {
        return Err(too_large(max_bytes));
    }
    let mut chunks = request.into_body().into_data_stream();
    let read = async {
        let mut body = BytesMut::with_capacity(declared.min(max_bytes));
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|_| ApiError::new(ErrorKind::InvalidRequest, "the body ended early"))?;
            if body.len() + chunk.len() > max_bytes || declared > max_bytes {
                return Err(too_large(max_bytes));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    };
    let outcome = match tokio::time::timeout(deadline, read).await {
        Ok(outcome) => outcome,
        Err(_) => return Err(ApiError::new(ErrorKind::BodyTimeout, "the body did not arrive in time")),
    };
    if let Err(ApiError { kind: ErrorKind::BodyTooLarge, .. }) = &outcome {
        discard(chunks).await;
    }
    outcome
}

fn too_large(max_bytes: usize) -> ApiError {
    ApiError::new(ErrorKind::BodyTooLarge, format!("the body is larger than the {max_bytes} bytes this server reads"))
}

async fn discard(mut chunks: axum::body::BodyDataStream) {
    let mut left = DISCARD_BYTES;
    let reading = async {
        while let Some(Ok(chunk)) = chunks.next().await {
            left = left.saturating_sub(chunk.len());
            if left == 0 {
                break;
            }
        }
    };
    tokio::time::timeout(DISCARD_TIME, reading).await.ok();
}

/// Parses JSON. The content type is not asked for: clients get it wrong and mean JSON all the same.
///
/// # Errors
/// A 400 with the field's path in `param`, and field, line and column in the text.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let parsed = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        if path == "." || !inner.is_data() {
            return ApiError::new(ErrorKind::InvalidRequest, format!("the body is not a JSON request: {inner}"));
        }
        ApiError::invalid(path, inner.to_string())
    })?;
    json.end().map_err(|error| {
        ApiError::new(ErrorKind::InvalidRequest, format!("the body is not a JSON request: {error}"))
    })?;
    Ok(parsed)
}

/// A complete JSON answer.
pub fn json(value: &impl serde::Serialize) -> Result<axum::response::Response, ApiError> {
    let bytes = serde_json::to_vec(value)
        .map_err(|error| ApiError::new(ErrorKind::Internal, format!("the answer can't be written: {error}")))?;
    let mut response = axum::response::Response::new(Body::from(bytes));
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    Ok(response)
}
