//! The ServiceAccount of a model's pod: a name of its own, no rights, and no token in the pod.

use k8s_openapi::api::core::v1::ServiceAccount;

use crate::validate::ValidatedModel;

/// The ServiceAccount of a model's pod.
pub fn service_account(model: &ValidatedModel) -> ServiceAccount {
    ServiceAccount {
        metadata: super::object_meta(model, model.name.clone()),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}
