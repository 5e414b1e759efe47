//! Step 3, pure: the objects that a validated model needs. Can't fail.

mod pod;
mod service;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kindling_api::{MANAGER, MODEL_LABEL};

use crate::config::OperatorConfig;
use crate::validate::ValidatedModel;

pub use pod::{model_path, pod, pod_digest};
pub use service::service;

/// Everything that should exist.
#[derive(Clone, Debug)]
pub struct Desired {
    /// The pod, where one should run.
    pub pod: Option<Pod>,
    /// The stable address in front of it.
    pub service: Service,
}

/// The objects of a model.
pub fn build(model: &ValidatedModel, config: &OperatorConfig) -> Desired {
    Desired { pod: model.is_running.then(|| pod(model, config)), service: service(model) }
}

/// Name of a model's pod.
pub fn pod_name(model: &str) -> String {
    format!("{model}-0")
}

/// Selects the pods of a model.
pub fn label_selector(model: &str) -> String {
    format!("{MODEL_LABEL}={model}")
}

fn object_meta(model: &ValidatedModel, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(model.namespace.clone()),
        labels: Some(labels(model)),
        owner_references: Some(vec![model.owner.clone()]),
        ..ObjectMeta::default()
    }
}

fn labels(model: &ValidatedModel) -> BTreeMap<String, String> {
    [
        ("app.kubernetes.io/name", "kindling"),
        ("app.kubernetes.io/instance", model.name.as_str()),
        ("app.kubernetes.io/component", "runtime"),
        ("app.kubernetes.io/part-of", "kindling"),
        ("app.kubernetes.io/managed-by", MANAGER),
        (MODEL_LABEL, model.name.as_str()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}

fn selector(model: &ValidatedModel) -> BTreeMap<String, String> {
    BTreeMap::from([(MODEL_LABEL.to_owned(), model.name.clone())])
}
