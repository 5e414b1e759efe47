//! AdmissionReview `admission.k8s.io/v1`: what the API server asks, and how it is answered.

use kindling_api::LocalModel;
use serde::Deserialize;
use serde_json::{Value, json};

use super::decision::Decision;

/// As the API server speaks.
const API_VERSION: &str = "admission.k8s.io/v1";
/// The API server cuts all warnings of one answer off at 4096 bytes.
const MAX_WARNING_CHARS: usize = 1024;
/// Of an object whose uid is not made yet: nothing in the cluster has it.
const NO_UID: &str = "not-made-yet";
/// What the API server appends to `generateName` has this form.
const GENERATED_SUFFIX: &str = "00000";

/// What was sent is no question for this webhook.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// No JSON, or not of that form.
    #[error("the body is no AdmissionReview: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Another version or kind.
    #[error("the body is {kind:?} of {api_version:?}, not an AdmissionReview of {API_VERSION:?}")]
    OtherKind {
        /// As it was sent.
        kind: String,
        /// As it was sent.
        api_version: String,
    },
}

/// What is asked.
#[derive(Debug)]
pub struct Question {
    /// To be sent back.
    pub uid: String,
    /// What is to be done with the object.
    pub subject: Subject,
}

/// What is to be done with which object.
#[derive(Debug)]
pub enum Subject {
    /// It is made or changed.
    Written {
        /// As it is to be.
        object: Box<LocalModel>,
        /// As it was.
        old: Option<Box<LocalModel>>,
    },
    /// A LocalModel that this version can't read; with the reason.
    Unreadable(String),
    /// Anything else, a deletion for example.
    Other,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    request: Option<Request>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    operation: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    sub_resource: String,
    #[serde(default)]
    object: Value,
    #[serde(default)]
    old_object: Value,
}

/// Reads a question.
///
/// # Errors
/// If it is none.
pub fn parse(body: &[u8]) -> Result<Question, ReviewError> {
    let review: Review = serde_json::from_slice(body)?;
    if review.api_version != API_VERSION || review.kind != "AdmissionReview" {
        return Err(ReviewError::OtherKind { kind: review.kind, api_version: review.api_version });
    }
    let missing = || <serde_json::Error as serde::de::Error>::missing_field("request");
    let request = review.request.ok_or_else(missing)?;
    let subject = match request.operation.as_str() {
        "CREATE" | "UPDATE" if request.sub_resource.is_empty() => subject(&request),
        _ => Subject::Other,
    };
    Ok(Question { uid: request.uid, subject })
}

fn subject(request: &Request) -> Subject {
    match LocalModel::deserialize(&request.object) {
        Ok(object) => Subject::Written {
            object: Box::new(completed(object, request)),
            old: LocalModel::deserialize(&request.old_object).ok().map(Box::new),
        },
        Err(error) => Subject::Unreadable(error.to_string()),
    }
}

/// With what the API server says beside the object, or makes only later.
fn completed(mut object: LocalModel, request: &Request) -> LocalModel {
    let meta = &mut object.metadata;
    let is_empty = |value: &Option<String>| value.as_deref().unwrap_or_default().is_empty();
    if is_empty(&meta.name) {
        let generated = meta.generate_name.as_deref().map(|prefix| format!("{prefix}{GENERATED_SUFFIX}"));
        meta.name = Some(request.name.clone()).filter(|name| !name.is_empty()).or(generated);
    }
    if is_empty(&meta.namespace) {
        meta.namespace = Some(request.namespace.clone());
    }
    if is_empty(&meta.uid) {
        meta.uid = Some(NO_UID.to_owned());
    }
    object
}

/// The answer.
pub fn answer(uid: &str, decision: &Decision) -> Value {
    let mut response = json!({ "uid": uid, "allowed": !matches!(decision, Decision::Denied(_)) });
    match decision {
        Decision::Allowed => {}
        Decision::Warned(words) => response["warnings"] = json!([one_line(words)]),
        Decision::Denied(words) => {
            response["status"] = json!({ "code": 403, "reason": "Forbidden", "message": words });
        }
    }
    json!({ "apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response })
}

/// A warning travels in a header: no line breaks, not too long.
fn one_line(words: &str) -> String {
    let plain = words.chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.take(MAX_WARNING_CHARS).collect()
}
