//! The validating webhook: says at `kubectl apply` what the conditions would say a moment later.
//!
//! Every replica serves it, also without the lease. It decides on what is in memory ([`decision`]); a replica that makes
//! no rounds knows nothing and lets pass, with a warning. Its certificates are its own ([`certificate`], [`keeper`]).

pub mod certificate;
pub mod decision;
pub mod https;
pub mod keeper;
pub mod review;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::post;
use serde_json::Value;

use crate::config::OperatorConfig;
use crate::facts::Asked;
use crate::placement::Placement;
use decision::{Decision, KnownFacts, decide};
use review::{Question, Subject};

/// Where the API server asks.
pub const PATH: &str = "/validate-localmodels";
/// An object is smaller: etcd takes no more than 1.5 MiB, and two of them may be in a question.
const MAX_BODY: usize = 1 << 20;
/// Within the API server's three seconds.
const TIME: Duration = Duration::from_secs(2);

/// What the webhook decides with.
pub struct Admission {
    config: OperatorConfig,
    placement: OnceLock<Arc<Placement>>,
}

impl Admission {
    /// Knows nothing of models yet.
    pub fn new(config: OperatorConfig) -> Self {
        Self { config, placement: OnceLock::new() }
    }

    /// From now on decides with what this one knows.
    pub fn follow(&self, placement: Arc<Placement>) {
        if self.placement.set(placement).is_err() {
            tracing::warn!("the webhook follows the first placement of this process already");
        }
    }

    /// Decides one question.
    pub fn decide(&self, subject: &Subject) -> Decision {
        match subject {
            Subject::Other => Decision::Allowed,
            Subject::Unreadable(why) => {
                Decision::Warned(format!("this version of the operator can't read the LocalModel: {why}"))
            }
            Subject::Written { object, old } => {
                let last = self.placement.get().and_then(|placement| placement.last_round());
                decide(object, old.as_deref(), &self.config, |asked| self.known(asked), last.as_deref())
            }
        }
    }

    fn known(&self, asked: &Asked) -> KnownFacts {
        let Some(placement) = self.placement.get() else { return KnownFacts::Nothing };
        if let Some(facts) = placement.known(asked).facts {
            return KnownFacts::Exact(facts);
        }
        placement.known_of_weights(asked).map_or(KnownFacts::Nothing, KnownFacts::ServedOtherwise)
    }
}

/// What is served over HTTPS.
pub fn router(admission: Arc<Admission>) -> Router {
    Router::new().route(PATH, post(validate)).with_state(admission)
}

async fn validate(State(admission): State<Arc<Admission>>, body: Body) -> Response {
    match tokio::time::timeout(TIME, answer(admission, body)).await {
        Ok(Ok(answer)) => Json(answer).into_response(),
        Ok(Err((code, words))) => (code, words).into_response(),
        Err(_) => (StatusCode::GATEWAY_TIMEOUT, "the question took longer than two seconds\n").into_response(),
    }
}

async fn answer(admission: Arc<Admission>, body: Body) -> Result<Value, (StatusCode, String)> {
    let body = to_bytes(body, MAX_BODY).await.map_err(|_| {
        (StatusCode::PAYLOAD_TOO_LARGE, format!("the body is cut off or longer than {MAX_BODY} bytes\n"))
    })?;
    // A plan over many models is arithmetic of its own length; beside the others it can be given up in time.
    let decided = tokio::task::spawn_blocking(move || {
        let Question { uid, subject } = review::parse(&body).map_err(|error| error.to_string())?;
        let decision = admission.decide(&subject);
        tracing::debug!(uid, ?decision, "asked by the API server");
        Ok::<_, String>(review::answer(&uid, &decision))
    });
    match decided.await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(words)) => Err((StatusCode::BAD_REQUEST, format!("{words}\n"))),
        Err(_) => Err((StatusCode::INTERNAL_SERVER_ERROR, "the question could not be decided\n".to_owned())),
    }
}
