//! The pod of a copy of a model, on the node that holds its reservation. The weights are in the node's cache already.

use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource, GRPCAction,
    HTTPGetAction, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, ObjectFieldSelector, Pod,
    PodSecurityContext, PodSpec, Probe, ProjectedVolumeSource, ResourceRequirements, SeccompProfile, SecurityContext,
    ServiceAccountTokenProjection, Volume, VolumeMount, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kindling_api::{
    AGENT_AUDIENCE, AGENT_PORT, DIGEST_ANNOTATION, GRPC_PORT, GRPC_PORT_NAME, KvCacheType, METRICS_PORT,
    METRICS_PORT_NAME, RUNTIME_CONTAINER, Remainder, TERMS_ANNOTATION,
};
use kindling_envelope::ledger::Terms;
use kindling_envelope::{Bytes, Device};
use sha2::{Digest, Sha256};

use super::volume::{model_path, pod_mount, pod_volume};
use crate::config::OperatorConfig;
use crate::placement::PodTerms;
use crate::validate::{PodInputs, ValidatedModel};

/// User and group of every process of Kindling (the `nonroot` of distroless images).
const USER: i64 = 65532;
const TMP_LIMIT: &str = "64Mi";
const TOKEN_VOLUME: &str = "agent-token";
const TOKEN_FOLDER: &str = "/var/run/secrets/kindling";
const TOKEN_FILE: &str = "token";
/// Renewed by the kubelet well before.
const TOKEN_SECONDS: i64 = 3600;
/// Of the limit above what is granted: for page cache, which the kernel gives back by itself.
const LIMIT_MARGIN: Bytes = Bytes::mib(64);

/// What the ledger gave to a copy of a model.
#[derive(Clone, Debug)]
pub struct Allotment {
    /// Where.
    pub node: String,
    /// Which copy.
    pub copy: u32,
    /// What computes it.
    pub device: Device,
    /// As they stand in the ledger.
    pub terms: Terms,
    /// Tokens of the KV cache that the terms were computed with.
    pub kv_tokens: u64,
}

/// The pod of a copy of a model.
pub fn pod(model: &ValidatedModel, allotment: &Allotment, config: &OperatorConfig) -> Pod {
    let mut metadata = super::object_meta(model, super::pod_name(&model.name, allotment.copy));
    let terms = serde_json::to_string(&pod_terms(allotment)).expect("plain data should serialise");
    metadata.annotations = Some(
        [(DIGEST_ANNOTATION.to_owned(), allotment.terms.fingerprint.clone()), (TERMS_ANNOTATION.to_owned(), terms)]
            .into(),
    );
    let inputs = &model.inputs;
    Pod {
        metadata,
        spec: Some(PodSpec {
            containers: vec![runtime(model, allotment, config)],
            volumes: Some(vec![pod_volume(model, &allotment.node, config), tmp_volume(), token_volume()]),
            affinity: Some(on_node(&allotment.node)),
            node_selector: (!inputs.node_selector.is_empty()).then(|| inputs.node_selector.clone()),
            tolerations: (!inputs.tolerations.is_empty()).then(|| inputs.tolerations.clone()),
            runtime_class_name: runtime_class_name(inputs, allotment.device, config),
            service_account_name: Some(model.name.clone()),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            restart_policy: Some("Always".to_owned()),
            termination_grace_period_seconds: Some(30),
            security_context: Some(pod_security_context()),
            ..PodSpec::default()
        }),
        status: None,
    }
}

fn pod_terms(allotment: &Allotment) -> PodTerms {
    let Allotment { node, terms, .. } = allotment;
    PodTerms {
        node: node.clone(),
        bytes: terms.bytes.0,
        load_transient_bytes: terms.load_transient.0,
        context_length: terms.context,
        fingerprint: terms.fingerprint.clone(),
        is_overridden: terms.overridden,
    }
}

/// Without the one that the administrator names for GPUs, a pod on the processor runs as any other.
fn runtime_class_name(inputs: &PodInputs, device: Device, config: &OperatorConfig) -> Option<String> {
    let of_device = config.gpu_runtime_class_name.as_ref().filter(|_| device == Device::Cuda);
    inputs.runtime_class_name.as_ref().or(of_device).cloned()
}

/// The scheduler still looks whether the node takes it.
fn on_node(node: &str) -> Affinity {
    let name = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let term = NodeSelectorTerm { match_fields: Some(vec![name]), ..NodeSelectorTerm::default() };
    let node_affinity = NodeAffinity {
        required_during_scheduling_ignored_during_execution: Some(NodeSelector { node_selector_terms: vec![term] }),
        ..NodeAffinity::default()
    };
    Affinity { node_affinity: Some(node_affinity), ..Affinity::default() }
}

/// Digest of everything from the spec that a pod is made from, and of what computes. The image is not in it: a new
/// operator restarts no model; a pod takes the new image when it is replaced.
pub fn pod_digest(inputs: &PodInputs, device: Device) -> String {
    let mut json = serde_json::to_vec(inputs).expect("plain data should serialise");
    // Of pods on the processor it is what it was when there was nothing else.
    if device == Device::Cuda {
        json.extend_from_slice(b"Cuda");
    }
    Sha256::digest(&json).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn runtime(model: &ValidatedModel, allotment: &Allotment, config: &OperatorConfig) -> Container {
    Container {
        ports: Some(vec![port(GRPC_PORT_NAME, GRPC_PORT), port(METRICS_PORT_NAME, METRICS_PORT)]),
        startup_probe: Some(Probe { period_seconds: Some(1), failure_threshold: Some(120), ..healthz() }),
        liveness_probe: Some(Probe {
            period_seconds: Some(10),
            timeout_seconds: Some(5),
            failure_threshold: Some(6),
            ..healthz()
        }),
        readiness_probe: Some(Probe {
            grpc: Some(GRPCAction { port: i32::from(GRPC_PORT), service: Some(String::new()) }),
            period_seconds: Some(2),
            timeout_seconds: Some(2),
            failure_threshold: Some(3),
            ..Probe::default()
        }),
        env: Some(agent_environment().into_iter().chain(gpu_environment(allotment.device)).collect()),
        resources: Some(resources(&allotment.terms, config)),
        volume_mounts: Some(vec![
            pod_mount(&model.inputs.weights),
            mount("tmp", "/tmp"),
            VolumeMount { read_only: Some(true), ..mount(TOKEN_VOLUME, TOKEN_FOLDER) },
        ]),
        ..container(RUNTIME_CONTAINER, runtime_args(model, allotment, config), config)
    }
}

/// The whole envelope is requested, so that Kubernetes' own scheduler and `kubectl describe node` see it. The limit is
/// above what the model may take: it ends a process that went astray, the budget ends nothing.
fn resources(terms: &Terms, config: &OperatorConfig) -> ResourceRequirements {
    let (request, limit) = (terms.bytes, terms.bytes + terms.load_transient + LIMIT_MARGIN.max(terms.bytes.percent(5)));
    let quantity = |bytes: Bytes| ("memory".to_owned(), Quantity(bytes.0.to_string()));
    let mut resources = config.runtime_resources.clone().unwrap_or_default();
    resources.requests.get_or_insert_default().extend([quantity(request)]);
    resources.limits.get_or_insert_default().extend([quantity(limit)]);
    resources
}

/// The agent is on the node's own address; its port is the same everywhere.
fn agent_environment() -> Vec<EnvVar> {
    let field = |path: &str| EnvVarSource {
        field_ref: Some(ObjectFieldSelector { field_path: path.to_owned(), ..ObjectFieldSelector::default() }),
        ..EnvVarSource::default()
    };
    vec![
        EnvVar { name: "HOST_IP".to_owned(), value_from: Some(field("status.hostIP")), ..EnvVar::default() },
        EnvVar {
            name: "KINDLING_AGENT".to_owned(),
            value: Some(format!("$(HOST_IP):{AGENT_PORT}")),
            ..EnvVar::default()
        },
        EnvVar {
            name: "KINDLING_AGENT_TOKEN_FILE".to_owned(),
            value: Some(format!("{TOKEN_FOLDER}/{TOKEN_FILE}")),
            ..EnvVar::default()
        },
    ]
}

/// For NVIDIA's container runtime, which may be a node's default: it shows devices and driver to those who ask, and to
/// nobody else. No device is claimed from Kubernetes, because several models share one.
fn gpu_environment(device: Device) -> Vec<EnvVar> {
    let variable = |(name, value): (&str, &str)| EnvVar {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        ..EnvVar::default()
    };
    let of_device: &[(&str, &str)] = match device {
        Device::Cpu => &[("NVIDIA_VISIBLE_DEVICES", "void")],
        Device::Cuda => &[("NVIDIA_VISIBLE_DEVICES", "all"), ("NVIDIA_DRIVER_CAPABILITIES", "compute,utility")],
    };
    of_device.iter().copied().map(variable).collect()
}

fn runtime_args(model: &ValidatedModel, allotment: &Allotment, config: &OperatorConfig) -> Vec<String> {
    let serving = &model.inputs.serving;
    let path = model_path(&model.inputs.weights).display().to_string();
    let mut args = to_args(&["runtime", "--model-path", &path, "--served-model-name", &model.name]);
    args.extend(to_args(&["--listen", &format!("0.0.0.0:{GRPC_PORT}")]));
    args.extend(to_args(&["--metrics-listen", &format!("0.0.0.0:{METRICS_PORT}")]));
    let options = [
        ("--memory-budget", Some(allotment.terms.bytes.0)),
        ("--context-length", Some(allotment.terms.context)),
        ("--max-concurrency", Some(u64::from(serving.max_concurrency))),
        ("--kv-tokens", Some(allotment.kv_tokens)),
        ("--max-batched-tokens", serving.max_batched_tokens.map(u64::from)),
    ];
    for (flag, value) in options {
        args.extend(value.into_iter().flat_map(|value| to_args(&[flag, &value.to_string()])));
    }
    if serving.kv_cache.kind == KvCacheType::Fp8 {
        args.extend(to_args(&["--kv-type", "fp8"]));
    }
    if model.inputs.remainder == Remainder::Fp8 {
        args.extend(to_args(&["--weights-remainder", "fp8"]));
    }
    if allotment.device == Device::Cuda {
        args.extend(to_args(&["--backend", "cuda"]));
    }
    if let Some(rate) = config.runtime_read_bytes_per_second {
        args.extend(to_args(&["--read-bytes-per-second", &rate.to_string()]));
    }
    args
}

fn container(name: &str, args: Vec<String>, config: &OperatorConfig) -> Container {
    Container {
        name: name.to_owned(),
        image: Some(config.runtime_image.clone()),
        image_pull_policy: config.image_pull_policy.clone(),
        args: Some(args),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), ..Capabilities::default() }),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

fn pod_security_context() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(USER),
        run_as_group: Some(USER),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), ..SeccompProfile::default() }),
        ..PodSecurityContext::default()
    }
}

/// The runtime answers `/healthz` from its start on, so a long load is not a failure.
fn healthz() -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some("/healthz".to_owned()),
            port: IntOrString::String(METRICS_PORT_NAME.to_owned()),
            ..HTTPGetAction::default()
        }),
        ..Probe::default()
    }
}

/// A token that only the node's agent takes: the pod's account may do nothing in the cluster.
fn token_volume() -> Volume {
    let token = ServiceAccountTokenProjection {
        audience: Some(AGENT_AUDIENCE.to_owned()),
        expiration_seconds: Some(TOKEN_SECONDS),
        path: TOKEN_FILE.to_owned(),
    };
    let source = VolumeProjection { service_account_token: Some(token), ..VolumeProjection::default() };
    Volume {
        name: TOKEN_VOLUME.to_owned(),
        projected: Some(ProjectedVolumeSource { sources: Some(vec![source]), ..ProjectedVolumeSource::default() }),
        ..Volume::default()
    }
}

fn tmp_volume() -> Volume {
    Volume {
        name: "tmp".to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            size_limit: Some(Quantity(TMP_LIMIT.to_owned())),
            ..EmptyDirVolumeSource::default()
        }),
        ..Volume::default()
    }
}

pub(super) fn mount(name: &str, path: &str) -> VolumeMount {
    VolumeMount { name: name.to_owned(), mount_path: path.to_owned(), ..VolumeMount::default() }
}

fn port(name: &str, number: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(number),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

fn to_args(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}
