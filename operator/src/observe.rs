//! What is the case now, read from a model's pods and their runtimes.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod, Service};
use kindling_api::{GRPC_PORT, LocalModel, RUNTIME_CONTAINER};
use kindling_proto::v1::GetModelInfoResponse;
use kube::ResourceExt;

use crate::backoff::has_finished;
use crate::dereference::{Existing, References};
use crate::facts::Known;
use crate::placement::Outcome;
use crate::runtime_info::RuntimeInfo;

/// What is the case now.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Of the first copy.
    pub first: ObservedCopy,
    /// Of the others that are asked for, in their order.
    pub others: Vec<ObservedCopy>,
    /// What is known of the weights.
    pub known: Known,
    /// `ip:port` of the Service.
    pub endpoint: Option<String>,
}

/// What is the case with one copy of a model.
#[derive(Clone, Debug, Default)]
pub struct ObservedCopy {
    /// How far its pod is.
    pub situation: Situation,
    /// What the runtime says, where it was asked and answered.
    pub info: Option<GetModelInfoResponse>,
    /// What was decided about its memory in the last round; nothing before the first.
    pub outcome: Option<Outcome>,
    /// Name of the pod, where there is one.
    pub pod_name: Option<String>,
    /// Node of the pod.
    pub node: Option<String>,
    /// Image of the runtime in the pod.
    pub runtime_image: Option<String>,
    /// `ip:port` of the runtime in the pod.
    pub address: Option<String>,
}

impl Observed {
    /// All copies.
    pub fn copies(&self) -> impl Iterator<Item = &ObservedCopy> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// The copy that speaks for the model: one that serves, else one that has a pod, else the first.
    pub fn chief(&self) -> &ObservedCopy {
        let with_pod = || self.copies().find(|copy| copy.pod_name.is_some());
        self.copies().find(|copy| copy.is_ready()).or_else(with_pod).unwrap_or(&self.first)
    }
}

impl ObservedCopy {
    /// Whether it answers requests.
    pub fn is_ready(&self) -> bool {
        self.situation == Situation::Started { is_ready: true }
    }
}

/// How far a model's pod is.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Situation {
    /// No pod is wanted.
    ScaledToZero,
    /// There is none: the outcome says why.
    #[default]
    Unplaced,
    /// An earlier pod goes away first.
    Replacing,
    /// Not started yet.
    Pending,
    /// The node does not take it.
    Unschedulable {
        /// What the scheduler says.
        message: String,
    },
    /// The pod ended for good and is replaced.
    Ended {
        /// Why.
        message: String,
    },
    /// An image can't be pulled.
    ImagePull {
        /// What the kubelet says.
        message: String,
    },
    /// A container can't be made as it is described.
    ConfigInvalid {
        /// What the kubelet says.
        message: String,
    },
    /// The runtime ended and is restarted later.
    Crashed {
        /// What the runtime says.
        message: String,
        /// How often it was restarted.
        restarts: i32,
    },
    /// The runtime runs.
    Started {
        /// Whether the kubelet found it ready.
        is_ready: bool,
    },
}

/// What was decided and is known about a model elsewhere.
#[derive(Clone, Debug, Default)]
pub struct Elsewhere {
    /// About the memory of its copies.
    pub outcomes: Vec<Option<Outcome>>,
    /// About its weights.
    pub known: Known,
}

/// Reads what is the case. A runtime is asked while it is not ready, and then until the model's facts are known.
pub async fn observe(
    (object, references, service): (&LocalModel, &References, Option<&Service>),
    elsewhere: Elsewhere,
    runtime: &dyn RuntimeInfo,
    has_facts: bool,
) -> Observed {
    let Elsewhere { outcomes, known } = elsewhere;
    let mut outcomes = outcomes.into_iter();
    let pods = references.pods.iter().map(|pod| (pod, outcomes.next().flatten()));
    let looks = pods.map(|(pod, outcome)| observe_copy((object, pod), outcome, runtime, has_facts));
    let mut copies = futures::future::join_all(looks).await.into_iter();
    let first = copies.next().unwrap_or_default();
    Observed { first, others: copies.collect(), known, endpoint: service.and_then(endpoint) }
}

async fn observe_copy(
    (object, found): (&LocalModel, &Existing<Pod>),
    outcome: Option<Outcome>,
    runtime: &dyn RuntimeInfo,
    has_facts: bool,
) -> ObservedCopy {
    let pod = found.ours();
    let situation = match (found, pod) {
        (Existing::Leftover, _) => Situation::Replacing,
        (_, Some(pod)) if pod.metadata.deletion_timestamp.is_some() => Situation::Replacing,
        (_, Some(pod)) => situation(pod),
        _ if object.spec.replicas == 0 => Situation::ScaledToZero,
        _ => Situation::Unplaced,
    };
    let present = pod.filter(|pod| pod.metadata.deletion_timestamp.is_none());
    let address = present.and_then(pod_ip);
    let info = match (&situation, address) {
        (Situation::Started { is_ready }, Some(address)) if !(*is_ready && has_facts) => {
            runtime.model_info(address).await
        }
        _ => None,
    };
    let spec = present.and_then(|pod| pod.spec.as_ref());
    ObservedCopy {
        situation,
        info,
        outcome,
        pod_name: present.map(ResourceExt::name_any),
        node: spec.and_then(|spec| spec.node_name.clone()),
        runtime_image: spec.and_then(|spec| spec.containers.first()?.image.clone()),
        address: address.map(|address| std::net::SocketAddr::new(address, GRPC_PORT).to_string()),
    }
}

/// Whether a pod of the model answers requests through the model's Service.
pub fn is_serving(references: &References) -> bool {
    let mut pods = references.pods.iter().filter_map(Existing::ours);
    let is_ready = pods.any(|pod| {
        pod.metadata.deletion_timestamp.is_none() && situation(pod) == Situation::Started { is_ready: true }
    });
    is_ready && references.service.ours().is_some()
}

/// How far a pod is.
pub fn situation(pod: &Pod) -> Situation {
    if has_finished(pod) {
        return Situation::Ended { message: end_of(pod) };
    }
    if let Some(message) = unschedulable(pod) {
        return Situation::Unschedulable { message };
    }
    let status = pod.status.as_ref();
    let containers = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    let runtime = containers.iter().find(|container| container.name == RUNTIME_CONTAINER);
    let Some(runtime) = runtime else { return Situation::Pending };
    cannot_start(runtime).unwrap_or_else(|| runtime_situation(runtime, pod))
}

/// The kubelet's reasons for a container that never started.
fn cannot_start(container: &ContainerStatus) -> Option<Situation> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref()?;
    let detail = waiting.message.as_deref().unwrap_or_default();
    let message = format!("container {}: {reason}: {detail}", container.name).trim_end_matches(": ").to_owned();
    match reason {
        "ErrImagePull"
        | "ImagePullBackOff"
        | "InvalidImageName"
        | "ErrImageNeverPull"
        | "ImageInspectError"
        | "RegistryUnavailable" => Some(Situation::ImagePull { message }),
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
            Some(Situation::ConfigInvalid { message })
        }
        _ => None,
    }
}

fn runtime_situation(container: &ContainerStatus, pod: &Pod) -> Situation {
    let is_running = container.state.as_ref().is_some_and(|state| state.running.is_some());
    if is_running {
        return Situation::Started { is_ready: container.ready && !is_called_unready(pod) };
    }
    match last_end(container) {
        Some(message) => Situation::Crashed { message, restarts: container.restart_count },
        None => Situation::Pending,
    }
}

/// Of a pod whose node is lost the control plane says so in the pod's condition; its container looks as it last did.
fn is_called_unready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "False")
}

/// How the container last ended: its own words where it left some, and the exit code.
fn last_end(container: &ContainerStatus) -> Option<String> {
    let ended = |state: &Option<ContainerState>| state.as_ref().and_then(|state| state.terminated.clone());
    let end = ended(&container.state).or_else(|| ended(&container.last_state))?;
    let words = end.message.as_deref().map(str::trim).filter(|words| !words.is_empty());
    let reason = end.reason.as_deref().unwrap_or("Error");
    let message = match words {
        Some(words) if reason == "OOMKilled" => format!("OOMKilled: {words}"),
        Some(words) => words.to_owned(),
        None => format!("{reason} (exit code {})", end.exit_code),
    };
    Some(message)
}

fn unschedulable(pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_deref()?;
    let scheduled = conditions.iter().find(|condition| condition.type_ == "PodScheduled")?;
    let is_refused = scheduled.status == "False" && scheduled.reason.as_deref() == Some("Unschedulable");
    is_refused.then(|| scheduled.message.clone().unwrap_or_default())
}

/// Why a pod ended for good.
fn end_of(pod: &Pod) -> String {
    let status = pod.status.clone().unwrap_or_default();
    let reason = status.reason.or(status.phase).unwrap_or_else(|| "Failed".to_owned());
    status.message.map_or(reason.clone(), |message| format!("{reason}: {message}"))
}

fn pod_ip(pod: &Pod) -> Option<IpAddr> {
    pod.status.as_ref()?.pod_ip.as_deref()?.parse().ok()
}

/// An address and not a name: a cluster may have no DNS.
fn endpoint(service: &Service) -> Option<String> {
    let address = service.spec.as_ref()?.cluster_ip.as_deref()?.parse().ok()?;
    Some(std::net::SocketAddr::new(address, GRPC_PORT).to_string())
}

#[cfg(test)]
mod tests;
