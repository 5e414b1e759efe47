//! Step 4, writes: makes the cluster hold what was built. Pods are made by [`crate::placement`].

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Service;
use kindling_api::{LocalModel, MANAGER};
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::build::Desired;
use crate::dereference::References;

/// Writing failed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// An object could not be applied.
    #[error("applying {kind} {name}")]
    Apply {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
}

/// Makes the cluster hold what was built. The answer is the Service, unless an earlier one of the same name still goes
/// away.
///
/// # Errors
/// If the API server refuses or does not answer.
pub async fn apply(
    client: &Client,
    object: &LocalModel,
    references: &References,
    desired: Desired,
) -> Result<Option<Service>, ApplyError> {
    let namespace = object.namespace().unwrap_or_default();
    if references.service.is_leftover() || references.service_account.is_leftover() {
        // an earlier LocalModel of this name: the garbage collector is at it
        return Ok(None);
    }
    apply_object(client, &namespace, &desired.service_account).await?;
    Ok(Some(apply_object(client, &namespace, &desired.service).await?))
}

async fn apply_object<T>(client: &Client, namespace: &str, object: &T) -> Result<T, ApplyError>
where
    T: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Serialize
        + DeserializeOwned
        + Clone
        + std::fmt::Debug,
{
    let name = object.name_any();
    let api = Api::<T>::namespaced(client.clone(), namespace);
    let params = PatchParams::apply(MANAGER).force();
    let applied = api.patch(&name, &params, &Patch::Apply(object)).await;
    applied.map_err(|source| ApplyError::Apply { kind: T::kind(&()).into_owned(), name, source })
}
