//! Step 3, pure: the objects that a validated model needs, and the pod that a reservation is for. Can't fail.

mod pod;
mod service;
mod service_account;
mod volume;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kindling_api::{MANAGER, MODEL_LABEL};

use crate::validate::ValidatedModel;

pub use pod::{Allotment, pod, pod_digest};
pub use service::service;
pub use service_account::service_account;
pub use volume::{HOST_LABEL, WeightsVolume, model_path, weights_volume};

/// Everything that should exist.
#[derive(Clone, Debug)]
pub struct Desired {
    /// Who the pod runs as.
    pub service_account: ServiceAccount,
    /// The stable address in front of it.
    pub service: Service,
}

/// The objects of a model.
pub fn build(model: &ValidatedModel) -> Desired {
    Desired { service_account: service_account(model), service: service(model) }
}

/// Name of the pod of a copy of a model.
pub fn pod_name(model: &str, copy: u32) -> String {
    format!("{model}-{copy}")
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
