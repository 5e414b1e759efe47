//! Step 4, writes: makes the cluster hold what was built.

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::jiff::Timestamp;
use kindling_api::{ConditionType, LocalModel, MANAGER};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, ResourceExt};

use crate::build::Desired;
use crate::dereference::{Existing, References};
use crate::replace::{self, PodStep};

/// What the cluster holds after this step.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The Service, unless an earlier one of the same name still goes away.
    pub service: Option<Service>,
    /// The pod.
    pub pod: PodFate,
}

/// What became of the pod.
#[derive(Clone, Debug)]
pub enum PodFate {
    /// None is wanted and there is none.
    Absent,
    /// It exists and is as it should be.
    Present(Box<Pod>),
    /// An earlier one goes away first.
    Leaving,
    /// It failed and stays until then.
    BackingOff {
        /// The failed pod.
        pod: Box<Pod>,
        /// When it is replaced.
        until: Timestamp,
    },
}

/// Writing failed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The Service could not be applied.
    #[error("applying service {name}")]
    ApplyService {
        /// Its name.
        name: String,
        #[source]
        source: Box<kube::Error>,
    },
    /// The pod could not be made.
    #[error("creating pod {name}")]
    CreatePod {
        /// Its name.
        name: String,
        #[source]
        source: Box<kube::Error>,
    },
    /// The pod could not be deleted.
    #[error("deleting pod {name}")]
    DeletePod {
        /// Its name.
        name: String,
        #[source]
        source: Box<kube::Error>,
    },
}

/// Makes the cluster hold what was built, one step at a time.
///
/// # Errors
/// If the API server refuses or does not answer.
pub async fn apply(
    client: &Client,
    object: &LocalModel,
    references: References,
    desired: Desired,
) -> Result<Applied, ApplyError> {
    let namespace = object.namespace().unwrap_or_default();
    let service = match references.service {
        Existing::Leftover | Existing::Foreign => None,
        Existing::None | Existing::Ours(_) => Some(apply_service(client, &namespace, &desired.service).await?),
    };
    let now = Timestamp::now();
    let step = replace::decide(&references.pod, desired.pod.as_ref(), not_ready_since(object), now);
    let pods = Api::<Pod>::namespaced(client.clone(), &namespace);
    let pod = take_step(&pods, step, references.pod, desired.pod).await?;
    Ok(Applied { service, pod })
}

async fn apply_service(client: &Client, namespace: &str, service: &Service) -> Result<Service, ApplyError> {
    let name = service.name_any();
    let services = Api::<Service>::namespaced(client.clone(), namespace);
    let params = PatchParams::apply(MANAGER).force();
    let applied = services.patch(&name, &params, &Patch::Apply(service)).await;
    applied.map_err(|source| ApplyError::ApplyService { name, source: Box::new(source) })
}

async fn take_step(
    pods: &Api<Pod>,
    step: PodStep,
    existing: Existing<Pod>,
    desired: Option<Pod>,
) -> Result<PodFate, ApplyError> {
    match (step, existing, desired) {
        (PodStep::Create, _, Some(pod)) => create(pods, &pod).await,
        (PodStep::Keep, Existing::Ours(pod), _) => Ok(PodFate::Present(pod)),
        (PodStep::BackOff { until }, Existing::Ours(pod), _) => Ok(PodFate::BackingOff { pod, until }),
        (PodStep::Delete, Existing::Ours(pod), _) => delete(pods, &pod).await,
        (PodStep::AwaitGone, _, _) => Ok(PodFate::Leaving),
        _ => Ok(PodFate::Absent),
    }
}

async fn create(pods: &Api<Pod>, pod: &Pod) -> Result<PodFate, ApplyError> {
    let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    match pods.create(&params, pod).await {
        Ok(created) => Ok(PodFate::Present(Box::new(created))),
        // somebody was quicker since the read; the next reconcile sees who
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(PodFate::Leaving),
        Err(source) => Err(ApplyError::CreatePod { name: pod.name_any(), source: Box::new(source) }),
    }
}

async fn delete(pods: &Api<Pod>, pod: &Pod) -> Result<PodFate, ApplyError> {
    let preconditions = Preconditions { uid: pod.uid(), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match pods.delete(&pod.name_any(), &params).await {
        Ok(_) => Ok(PodFate::Leaving),
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(PodFate::Leaving),
        Err(source) => Err(ApplyError::DeletePod { name: pod.name_any(), source: Box::new(source) }),
    }
}

/// Since when the model has not been ready, as the status says.
fn not_ready_since(object: &LocalModel) -> Option<Timestamp> {
    let ready = object.status.as_ref()?.condition(ConditionType::Ready)?;
    (ready.status != "True").then_some(ready.last_transition_time.0)
}
