//! Step 1, reads: what the cluster already holds under the names that a LocalModel will use.

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Pod, Service, ServiceAccount};
use kindling_api::LocalModel;
use kube::api::Api;
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::build;

/// What the cluster holds under the model's names.
#[derive(Clone, Debug, Default)]
pub struct References {
    /// Under the names of the model's pods: of every copy that is asked for, at least of the first.
    pub pods: Vec<Existing<Pod>>,
    /// Under the name of the model's Service.
    pub service: Existing<Service>,
    /// Under the name of the ServiceAccount of the model's pod.
    pub service_account: Existing<ServiceAccount>,
}

/// What lies under a name.
#[derive(Clone, Debug, Default)]
pub enum Existing<T> {
    /// Nothing.
    #[default]
    None,
    /// An object of this very LocalModel.
    Ours(Box<T>),
    /// An object of an earlier LocalModel of the same name; the garbage collector is about to remove it.
    Leftover,
    /// Somebody else's object, which must not be touched.
    Foreign,
}

/// Reading failed.
#[derive(Debug, thiserror::Error)]
pub enum DereferenceError {
    /// An object could not be read.
    #[error("reading {kind} {name}")]
    Read {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
}

/// Reads what the cluster holds under the model's names.
///
/// # Errors
/// If the API server does not answer or does not allow it.
pub async fn dereference(client: &Client, object: &LocalModel) -> Result<References, DereferenceError> {
    let model = object.name_any();
    let mut pods = Vec::new();
    for copy in 0..object.spec.replicas.max(1) {
        pods.push(read(client, object, &build::pod_name(&model, copy)).await?);
    }
    Ok(References {
        pods,
        service: read(client, object, &model).await?,
        service_account: read(client, object, &model).await?,
    })
}

async fn read<T>(client: &Client, object: &LocalModel, name: &str) -> Result<Existing<T>, DereferenceError>
where
    T: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + DeserializeOwned + Clone + std::fmt::Debug,
{
    let api = Api::<T>::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    let found = api.get_opt(name).await.map_err(|source| DereferenceError::Read {
        kind: T::kind(&()).into_owned(),
        name: name.to_owned(),
        source,
    })?;
    Ok(found.map_or(Existing::None, |found| classify(found, object.meta().uid.as_deref())))
}

/// Whose object it is, by its controller.
fn classify<T: Resource<DynamicType = ()>>(found: T, uid: Option<&str>) -> Existing<T> {
    let owners = found.meta().owner_references.as_deref().unwrap_or_default();
    match owners.iter().find(|owner| owner.controller == Some(true)) {
        Some(owner) if owner.kind != "LocalModel" => Existing::Foreign,
        Some(owner) if Some(owner.uid.as_str()) == uid => Existing::Ours(Box::new(found)),
        Some(_) => Existing::Leftover,
        None => Existing::Foreign,
    }
}

impl<T> Existing<T> {
    /// The object, where it is ours.
    pub fn ours(&self) -> Option<&T> {
        match self {
            Self::Ours(object) => Some(object),
            Self::None | Self::Leftover | Self::Foreign => None,
        }
    }

    /// Whether somebody else's object is in the way.
    pub fn is_foreign(&self) -> bool {
        matches!(self, Self::Foreign)
    }

    /// Whether an earlier object is about to be removed.
    pub fn is_leftover(&self) -> bool {
        matches!(self, Self::Leftover)
    }
}
