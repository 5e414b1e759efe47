//! What is the case now, read from a model's pod and its runtime.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod, Service};
use k8s_openapi::jiff::Timestamp;
use kindling_api::{FETCH_CONTAINER, GRPC_PORT, RUNTIME_CONTAINER};
use kindling_proto::v1::GetModelInfoResponse;
use kube::ResourceExt;

use crate::apply::{Applied, PodFate};
use crate::dereference::References;
use crate::runtime_info::RuntimeInfo;

/// What is the case now.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// How far the model's pod is.
    pub situation: Situation,
    /// What the runtime says, where it was asked and answered.
    pub info: Option<GetModelInfoResponse>,
    /// Name of the pod, where there is one.
    pub pod_name: Option<String>,
    /// Node of the pod.
    pub node: Option<String>,
    /// Image of the runtime in the pod.
    pub runtime_image: Option<String>,
    /// `ip:port` of the Service.
    pub endpoint: Option<String>,
}

/// How far a model's pod is.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Situation {
    /// No pod is wanted.
    ScaledToZero,
    /// An earlier pod goes away first.
    #[default]
    Replacing,
    /// The pod ended for good and is replaced later.
    BackingOff {
        /// Why it ended.
        message: String,
        /// When it is replaced.
        until: Timestamp,
    },
    /// Not started yet.
    Pending,
    /// No node takes it.
    Unschedulable {
        /// What the scheduler says.
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
    /// The weights are on their way.
    Fetching {
        /// What the fetch container said when an earlier try ended.
        last_failure: Option<String>,
    },
    /// The weights could not be brought.
    FetchFailed {
        /// What the fetch container says.
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

/// Reads what is the case. The runtime is asked while it is not ready, and then until its facts are known.
pub async fn observe(applied: Applied, runtime: &dyn RuntimeInfo, has_facts: bool) -> Observed {
    let endpoint = applied.service.as_ref().and_then(endpoint);
    let (pod, situation) = match applied.pod {
        PodFate::Absent => (None, Situation::ScaledToZero),
        PodFate::Leaving => (None, Situation::Replacing),
        PodFate::BackingOff { pod, until } => {
            let message = end_of(&pod);
            (Some(pod), Situation::BackingOff { message, until })
        }
        PodFate::Present(pod) => {
            let situation = situation(&pod);
            (Some(pod), situation)
        }
    };
    let address = pod.as_deref().and_then(pod_ip);
    let info = match (&situation, address) {
        (Situation::Started { is_ready }, Some(address)) if !(*is_ready && has_facts) => {
            runtime.model_info(address).await
        }
        _ => None,
    };
    let spec = pod.as_ref().and_then(|pod| pod.spec.as_ref());
    Observed {
        info,
        pod_name: pod.as_ref().map(|pod| pod.name_any()),
        node: spec.and_then(|spec| spec.node_name.clone()),
        runtime_image: spec.and_then(|spec| spec.containers.first()?.image.clone()),
        endpoint,
        situation,
    }
}

/// Whether the model's pod answers requests through the model's Service.
pub fn is_serving(references: &References) -> bool {
    let is_ready = references.pod.ours().is_some_and(|pod| {
        pod.metadata.deletion_timestamp.is_none() && situation(pod) == Situation::Started { is_ready: true }
    });
    is_ready && references.service.ours().is_some()
}

/// How far a pod is.
pub fn situation(pod: &Pod) -> Situation {
    if let Some(message) = unschedulable(pod) {
        return Situation::Unschedulable { message };
    }
    let Some(status) = &pod.status else { return Situation::Pending };
    let fetch = find(status.init_container_statuses.as_deref(), FETCH_CONTAINER);
    let runtime = find(status.container_statuses.as_deref(), RUNTIME_CONTAINER);
    for container in [fetch, runtime].into_iter().flatten() {
        if let Some(situation) = cannot_start(container) {
            return situation;
        }
    }
    if let Some(situation) = fetch.and_then(fetch_situation) {
        return situation;
    }
    runtime.map_or(Situation::Pending, runtime_situation)
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

/// `None` once the weights are there.
fn fetch_situation(container: &ContainerStatus) -> Option<Situation> {
    let state = container.state.as_ref()?;
    if let Some(ended) = &state.terminated
        && ended.exit_code == 0
    {
        return None;
    }
    if state.running.is_some() {
        return Some(Situation::Fetching { last_failure: last_end(container) });
    }
    Some(match last_end(container) {
        Some(message) => Situation::FetchFailed { message },
        None => Situation::Pending,
    })
}

fn runtime_situation(container: &ContainerStatus) -> Situation {
    let is_running = container.state.as_ref().is_some_and(|state| state.running.is_some());
    if is_running {
        return Situation::Started { is_ready: container.ready };
    }
    match last_end(container) {
        Some(message) => Situation::Crashed { message, restarts: container.restart_count },
        None => Situation::Pending,
    }
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

fn find<'a>(containers: Option<&'a [ContainerStatus]>, name: &str) -> Option<&'a ContainerStatus> {
    containers.unwrap_or_default().iter().find(|container| container.name == name)
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
