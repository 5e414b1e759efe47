//! What can go wrong with a request, classified once: HTTP status, OpenAI body, metric label, log level.
//!
//! Routes only translate into [`ApiError`]; nothing else in the crate chooses a status code.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

/// The kinds of failure that a client can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request can never succeed as it is.
    InvalidRequest,
    /// The prompt alone is longer than the context.
    ContextLengthExceeded,
    /// No model has this name.
    ModelNotFound,
    /// No endpoint has this path.
    UnknownPath,
    /// The path exists, the method does not.
    MethodNotAllowed,
    /// The body is larger than this gateway reads.
    BodyTooLarge,
    /// The client sent its body too slowly.
    BodyTimeout,
    /// The runtime's queue is full.
    RateLimited,
    /// The model exists and does not answer now: loading, draining, failed.
    ModelUnavailable,
    /// The request took longer than it may.
    Timeout,
    /// A fault of the runtime or the gateway.
    Internal,
}

impl ErrorKind {
    /// The HTTP status of an answer that has not started.
    pub fn status(self) -> StatusCode {
        match self {
            Self::InvalidRequest | Self::ContextLengthExceeded => StatusCode::BAD_REQUEST,
            Self::ModelNotFound | Self::UnknownPath => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::ModelUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// OpenAI's `type`.
    fn openai_type(self) -> &'static str {
        match self {
            Self::RateLimited => "rate_limit_error",
            Self::ModelUnavailable => "service_unavailable_error",
            Self::Timeout | Self::Internal => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// OpenAI's `code`, where it has one.
    fn code(self) -> Option<&'static str> {
        match self {
            Self::InvalidRequest => None,
            Self::ContextLengthExceeded => Some("context_length_exceeded"),
            Self::ModelNotFound => Some("model_not_found"),
            Self::UnknownPath => Some("unknown_url"),
            Self::MethodNotAllowed => Some("method_not_allowed"),
            Self::BodyTooLarge => Some("request_too_large"),
            Self::BodyTimeout => Some("request_timeout"),
            Self::RateLimited => Some("rate_limit_exceeded"),
            Self::ModelUnavailable => Some("model_unavailable"),
            Self::Timeout => Some("timeout"),
            Self::Internal => Some("internal_error"),
        }
    }

    /// When a client should try again if the runtime did not say.
    fn default_retry_after(self) -> Option<Duration> {
        match self {
            Self::RateLimited => Some(Duration::from_secs(1)),
            Self::ModelUnavailable => Some(Duration::from_secs(5)),
            _ => None,
        }
    }
}

/// An answer that is not what the client hoped for.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Which of the kinds.
    pub kind: ErrorKind,
    /// For the person who reads it: which field, what was found, what to do.
    pub message: String,
    /// The field of the request that is wrong, as a path.
    pub param: Option<String>,
    retry_after: Option<Duration>,
}

impl ApiError {
    /// An error that no single field causes.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), param: None, retry_after: kind.default_retry_after() }
    }

    /// A 400 that names the field.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        let param = param.into();
        let message = format!("{param}: {}", message.into());
        Self { param: Some(param), ..Self::new(ErrorKind::InvalidRequest, message) }
    }

    /// The same error with a field's name beside its text.
    pub fn with_param(self, param: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..self }
    }

    /// The same error with a better guess at when to try again.
    pub fn retry_after(self, after: Option<Duration>) -> Self {
        Self { retry_after: after.or(self.retry_after), ..self }
    }

    /// `{"error": …}`, as the body of an answer or as an event in a stream.
    pub fn body(&self) -> impl Serialize + '_ {
        ErrorBody {
            error: ErrorFields {
                message: &self.message,
                kind: self.kind.openai_type(),
                param: self.param.as_deref(),
                code: self.kind.code(),
            },
        }
    }
}

/// What the runtime's gRPC status means to a client of the API.
impl From<tonic::Status> for ApiError {
    fn from(status: tonic::Status) -> Self {
        use tonic::Code;
        // With a cause it was made on this side: the connection broke, before the answer or in the middle of it.
        let is_broken = std::error::Error::source(&status).is_some();
        let kind = match status.code() {
            _ if is_broken => ErrorKind::ModelUnavailable,
            Code::InvalidArgument | Code::FailedPrecondition | Code::Unimplemented => ErrorKind::InvalidRequest,
            Code::OutOfRange => ErrorKind::ContextLengthExceeded,
            Code::ResourceExhausted => ErrorKind::RateLimited,
            Code::Unavailable => ErrorKind::ModelUnavailable,
            Code::DeadlineExceeded => ErrorKind::Timeout,
            _ => ErrorKind::Internal,
        };
        let seconds = status.metadata().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        let mut error = Self::new(kind, status.message()).retry_after(seconds.map(Duration::from_secs));
        match kind {
            // A transport error's text is a chain of library words and addresses: keep it in the log.
            ErrorKind::ModelUnavailable if is_broken => {
                tracing::warn!(%status, "runtime can't be reached");
                error.message = "the model's runtime can't be reached at the moment; try again".into();
            }
            ErrorKind::Internal => tracing::error!(%status, "runtime failed a request"),
            _ => {}
        }
        error
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.body()).expect("an error body should serialise");
        let mut response = (self.kind.status(), body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(after) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        response
    }
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: ErrorFields<'a>,
}

#[derive(Serialize)]
struct ErrorFields<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<&'a str>,
    code: Option<&'static str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_grpc_status_has_its_http_status() {
        use tonic::Code;
        let table = [
            (Code::InvalidArgument, 400),
            (Code::OutOfRange, 400),
            (Code::ResourceExhausted, 429),
            (Code::Unavailable, 503),
            (Code::DeadlineExceeded, 504),
            (Code::Internal, 500),
            (Code::Unknown, 500),
            (Code::Cancelled, 500),
        ];
        for (code, status) in table {
            let error = ApiError::from(tonic::Status::new(code, "why"));
            assert_eq!(error.kind.status().as_u16(), status, "{code:?}");
            assert_eq!(error.message, "why");
        }
    }

    #[test]
    fn error_bodies_carry_all_four_keys() {
        let body = serde_json::to_value(ApiError::new(ErrorKind::InvalidRequest, "no").body()).unwrap();
        let keys: Vec<_> = body["error"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, ["message", "type", "param", "code"]);
        assert!(body["error"]["code"].is_null());
    }
}
