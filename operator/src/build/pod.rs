//! The pod of a model: `fetch` brings the weights into the node's cache, `runtime` serves them.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EmptyDirVolumeSource, GRPCAction, HTTPGetAction, HostPathVolumeSource, Pod,
    PodSecurityContext, PodSpec, Probe, SeccompProfile, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kindling_api::{
    DIGEST_ANNOTATION, FETCH_CONTAINER, GRPC_PORT, GRPC_PORT_NAME, METRICS_PORT, METRICS_PORT_NAME, RUNTIME_CONTAINER,
};
use sha2::{Digest, Sha256};

use crate::config::OperatorConfig;
use crate::validate::{PodInputs, ValidatedModel, Weights};

/// Where the cache lies in the pod.
const CACHE: &str = "/cache";
/// Where a source of kind hostPath lies in the pod.
const MODEL: &str = "/model";
/// User and group of every process of Kindling (the `nonroot` of distroless images).
const USER: i64 = 65532;
const TMP_LIMIT: &str = "64Mi";

/// The pod of a model.
pub fn pod(model: &ValidatedModel, config: &OperatorConfig) -> Pod {
    let mut metadata = super::object_meta(model, super::pod_name(&model.name));
    metadata.annotations = Some([(DIGEST_ANNOTATION.to_owned(), pod_digest(&model.inputs))].into());
    let inputs = &model.inputs;
    Pod {
        metadata,
        spec: Some(PodSpec {
            init_containers: fetch(inputs, config).map(|container| vec![container]),
            containers: vec![runtime(model, config)],
            volumes: Some(vec![weights_volume(inputs, config), tmp_volume()]),
            node_selector: (!inputs.node_selector.is_empty()).then(|| inputs.node_selector.clone()),
            tolerations: (!inputs.tolerations.is_empty()).then(|| inputs.tolerations.clone()),
            runtime_class_name: inputs.runtime_class_name.clone(),
            service_account_name: config.runtime_service_account.clone(),
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

/// Digest of everything from the spec that a pod is made from. The image is not in it: a new operator restarts no
/// model; a pod takes the new image when it is replaced.
pub fn pod_digest(inputs: &PodInputs) -> String {
    let json = serde_json::to_vec(inputs).expect("plain data should serialise");
    Sha256::digest(&json).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Path of the weights in the runtime's container: the GGUF file where the spec names exactly one, else the folder.
pub fn model_path(weights: &Weights) -> PathBuf {
    match weights {
        Weights::Hub { files, .. } => {
            let folder = Path::new(CACHE).join(cache_folder(weights));
            let mut gguf = files.iter().filter(|file| file.to_ascii_lowercase().ends_with(".gguf"));
            match (gguf.next(), gguf.next()) {
                (Some(file), None) => folder.join(file),
                _ => folder,
            }
        }
        Weights::HostPath { relative, .. } => {
            // keeps the file's name, so that the runtime sees its ending
            relative.file_name().map_or_else(|| PathBuf::from(MODEL), |name| Path::new(MODEL).join(name))
        }
    }
}

/// Folder of the weights below the cache, or below the allowed folder.
fn cache_folder(weights: &Weights) -> PathBuf {
    match weights {
        Weights::Hub { repo, revision, .. } => Path::new("models/hf").join(repo).join(revision),
        Weights::HostPath { relative, .. } => relative.clone(),
    }
}

fn fetch(inputs: &PodInputs, config: &OperatorConfig) -> Option<Container> {
    let Weights::Hub { repo, revision, files } = &inputs.weights else { return None };
    let mut args = to_args(&["pull", "--cache", CACHE, "--hf-repo", repo, "--revision", revision]);
    args.extend(files.iter().flat_map(|file| to_args(&["--file", file])));
    Some(Container {
        volume_mounts: Some(vec![mount("weights", CACHE), mount("tmp", "/tmp")]),
        ..container(FETCH_CONTAINER, args, config)
    })
}

fn runtime(model: &ValidatedModel, config: &OperatorConfig) -> Container {
    let weights = &model.inputs.weights;
    let in_pod = match weights {
        Weights::Hub { .. } => Path::new(CACHE).join(cache_folder(weights)),
        Weights::HostPath { .. } => model_path(weights),
    };
    // the subPath keeps other models out of sight, and the kubelet refuses one that leads out by a symbolic link
    let weights_mount = VolumeMount {
        read_only: Some(true),
        sub_path: Some(cache_folder(weights).display().to_string()),
        ..mount("weights", &in_pod.display().to_string())
    };
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
        resources: config.runtime_resources.clone(),
        volume_mounts: Some(vec![weights_mount, mount("tmp", "/tmp")]),
        ..container(RUNTIME_CONTAINER, runtime_args(model), config)
    }
}

fn runtime_args(model: &ValidatedModel) -> Vec<String> {
    let serving = &model.inputs.serving;
    let path = model_path(&model.inputs.weights).display().to_string();
    let mut args = to_args(&["runtime", "--model-path", &path, "--served-model-name", &model.name]);
    args.extend(to_args(&["--listen", &format!("0.0.0.0:{GRPC_PORT}")]));
    args.extend(to_args(&["--metrics-listen", &format!("0.0.0.0:{METRICS_PORT}")]));
    let options = [
        ("--context-length", serving.context_length),
        ("--max-concurrency", Some(serving.max_concurrency)),
        ("--kv-tokens", serving.kv_cache.tokens),
        ("--max-batched-tokens", serving.max_batched_tokens),
    ];
    for (flag, value) in options {
        args.extend(value.into_iter().flat_map(|value| to_args(&[flag, &value.to_string()])));
    }
    args
}

/// What both containers have alike.
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

fn weights_volume(inputs: &PodInputs, config: &OperatorConfig) -> Volume {
    let (path, kind) = match &inputs.weights {
        Weights::Hub { .. } => (&config.cache_host_path, "DirectoryOrCreate"),
        Weights::HostPath { prefix, .. } => (prefix, "Directory"),
    };
    Volume {
        name: "weights".to_owned(),
        host_path: Some(HostPathVolumeSource { path: path.display().to_string(), type_: Some(kind.to_owned()) }),
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

fn mount(name: &str, path: &str) -> VolumeMount {
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
