//! The volume through which a model's pod sees its weights on a node: local, read-only, of just that model. The pod asks
//! for a claim and no path of the node, so that it may run where Pod Security is `restricted`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{
    LocalVolumeSource, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, ObjectReference, PersistentVolume,
    PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeClaimVolumeSource, PersistentVolumeSpec, Volume,
    VolumeMount, VolumeNodeAffinity, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kindling_envelope::Bytes;
use sha2::{Digest, Sha256};

use super::pod::mount;
use super::{labels, object_meta};
use crate::config::OperatorConfig;
use crate::validate::{ValidatedModel, Weights};

/// Where the cache lies in the pod.
const CACHE: &str = "/cache";
/// Where a source of kind hostPath lies in the pod.
const MODEL: &str = "/model";
const VOLUME: &str = "weights";
const READ_ONLY_MANY: &str = "ReadOnlyMany";
/// The label by which a node is known to the scheduler of volumes; every kubelet sets it.
pub const HOST_LABEL: &str = "kubernetes.io/hostname";

/// A volume and the claim that it is for.
#[derive(Clone, Debug)]
pub struct WeightsVolume {
    /// Of the whole cluster.
    pub volume: PersistentVolume,
    /// In the model's namespace; it goes when the LocalModel does.
    pub claim: PersistentVolumeClaim,
}

/// The volume of a model's weights on a node whose [`HOST_LABEL`] is `host`. All names follow from model, node and path,
/// so what exists by that name is as it should be.
pub fn weights_volume(
    model: &ValidatedModel,
    (node, host): (&str, &str),
    size: Bytes,
    config: &OperatorConfig,
) -> WeightsVolume {
    let claim_name = claim_name(model, node, config);
    let capacity = BTreeMap::from([("storage".to_owned(), Quantity(size.0.to_string()))]);
    let claim_ref = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("PersistentVolumeClaim".to_owned()),
        namespace: Some(model.namespace.clone()),
        name: Some(claim_name.clone()),
        ..ObjectReference::default()
    };
    let volume_name = format!("kindling-{}", digest(model, node, config));
    let path = folder_on_node(&model.inputs.weights, config).display().to_string();
    let volume = PersistentVolume {
        metadata: ObjectMeta { name: Some(volume_name.clone()), labels: Some(labels(model)), ..ObjectMeta::default() },
        spec: Some(PersistentVolumeSpec {
            capacity: Some(capacity.clone()),
            access_modes: Some(vec![READ_ONLY_MANY.to_owned()]),
            // The claim alone would not keep other pods of its namespace from writing.
            mount_options: Some(vec!["ro".to_owned()]),
            persistent_volume_reclaim_policy: Some("Retain".to_owned()),
            storage_class_name: Some(String::new()),
            claim_ref: Some(claim_ref),
            local: Some(LocalVolumeSource { path, ..LocalVolumeSource::default() }),
            node_affinity: Some(VolumeNodeAffinity { required: Some(on_host(host)) }),
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    };
    let claim = PersistentVolumeClaim {
        metadata: object_meta(model, claim_name),
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec![READ_ONLY_MANY.to_owned()]),
            resources: Some(VolumeResourceRequirements { requests: Some(capacity), limits: None }),
            storage_class_name: Some(String::new()),
            volume_name: Some(volume_name),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    };
    WeightsVolume { volume, claim }
}

/// As a pod on this node names it.
pub(super) fn pod_volume(model: &ValidatedModel, node: &str, config: &OperatorConfig) -> Volume {
    let source =
        PersistentVolumeClaimVolumeSource { claim_name: claim_name(model, node, config), read_only: Some(true) };
    Volume { name: VOLUME.to_owned(), persistent_volume_claim: Some(source), ..Volume::default() }
}

/// Where it lies in the runtime's container.
pub(super) fn pod_mount(weights: &Weights) -> VolumeMount {
    let (path, sub_path) = match weights {
        Weights::Hub { .. } => (Path::new(CACHE).join(cache_folder(weights)), None),
        // the subPath keeps all else below the allowed folder out of sight, and the kubelet refuses one that leads out
        // by a symbolic link
        Weights::HostPath { relative, .. } => (model_path(weights), Some(relative.display().to_string())),
    };
    VolumeMount { read_only: Some(true), sub_path, ..mount(VOLUME, &path.display().to_string()) }
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

fn folder_on_node(weights: &Weights, config: &OperatorConfig) -> PathBuf {
    match weights {
        Weights::Hub { .. } => config.cache_host_path.join(cache_folder(weights)),
        Weights::HostPath { prefix, .. } => prefix.clone(),
    }
}

fn claim_name(model: &ValidatedModel, node: &str, config: &OperatorConfig) -> String {
    format!("{}-{}", model.name, digest(model, node, config))
}

fn digest(model: &ValidatedModel, node: &str, config: &OperatorConfig) -> String {
    let folder = folder_on_node(&model.inputs.weights, config);
    let text = [model.owner.uid.as_str(), node, &folder.display().to_string()].join("\n");
    Sha256::digest(text.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn on_host(host: &str) -> NodeSelector {
    let is_host = NodeSelectorRequirement {
        key: HOST_LABEL.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![host.to_owned()]),
    };
    let term = NodeSelectorTerm { match_expressions: Some(vec![is_host]), ..NodeSelectorTerm::default() };
    NodeSelector { node_selector_terms: vec![term] }
}
