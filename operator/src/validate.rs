//! Step 2, pure: the only place that says no. What passes is a [`ValidatedModel`], in which illegal states can't be
//! written down.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::Toleration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kindling_api::{Device, LocalModel, Remainder, Serving, Source};
use kindling_envelope::Device as Computes;
use kube::{Resource, ResourceExt};
use serde::Serialize;

use crate::config::OperatorConfig;
use crate::dereference::References;
use crate::facts::Asked;
use crate::reason::Reason;

/// The longest name of a LocalModel: room for suffixes below the 63 characters of a Service's name.
pub const MAX_NAME_LENGTH: usize = 40;

/// A LocalModel that can be built.
#[derive(Clone, Debug)]
pub struct ValidatedModel {
    /// Name of the LocalModel and of its Service.
    pub name: String,
    /// Namespace of everything that is made.
    pub namespace: String,
    /// Makes what is built a child of the LocalModel.
    pub owner: OwnerReference,
    /// What the pod is made from.
    pub inputs: PodInputs,
    /// What is to compute it; nothing is the best that works.
    pub device: Option<Computes>,
}

impl ValidatedModel {
    /// What the agents are asked about it, were it computed so.
    pub fn asked(&self, device: Computes) -> Asked {
        let PodInputs { weights, serving, remainder, .. } = &self.inputs;
        Asked { weights: weights.clone(), serving: serving.clone(), remainder: *remainder, device }
    }
}

/// Everything from the spec that a pod is made from: another value of it needs another pod.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PodInputs {
    /// Where the weights come from.
    pub weights: Weights,
    /// How they are served.
    pub serving: Serving,
    /// What becomes of what is stored in 16 bits; pods from before there was a choice stay as they are.
    #[serde(skip_serializing_if = "is_kept")]
    pub remainder: Remainder,
    /// Labels that the node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Taints that are tolerated.
    pub tolerations: Vec<Toleration>,
    /// RuntimeClass of the pod.
    pub runtime_class_name: Option<String>,
}

fn is_kept(remainder: &Remainder) -> bool {
    *remainder == Remainder::Keep
}

/// Where the weights come from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Weights {
    /// A repository on the hub, downloaded into the node's cache.
    Hub {
        /// `organisation/name`
        repo: String,
        /// Branch, tag or commit.
        revision: String,
        /// Files to download; empty means what the model needs.
        files: Vec<String>,
    },
    /// A folder or file on the node, below a folder that is allowed.
    HostPath {
        /// The allowed folder.
        prefix: PathBuf,
        /// The rest of the path.
        relative: PathBuf,
    },
}

/// Why a LocalModel is refused. The texts are messages of conditions: they say what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValidateError {
    /// The name can't be the name of a Service.
    #[error(
        "metadata.name {name:?} can't name a Service: use at most 40 lower-case letters, digits and hyphens, beginning \
         with a letter, and put other spellings into spec.gateway.aliases"
    )]
    Name {
        /// As it is.
        name: String,
    },
    /// The API server always sets namespace and uid; this object has none.
    #[error("the object has no namespace or no uid; read it from the API server")]
    Metadata,
    /// Not exactly one source.
    #[error("spec.source needs exactly one of hf and hostPath")]
    SourceCount,
    /// The repository, revision or a file is not a plain name.
    #[error("spec.source.hf.{field} {value:?} is not a plain name")]
    HubName {
        /// The field.
        field: &'static str,
        /// As it is.
        value: String,
    },
    /// The path is not below an allowed folder.
    #[error(
        "spec.source.hostPath.path {path:?} is not below a folder that the administrator allows; allowed: {allowed}. \
         Ask for the chart value allowedHostPathPrefixes, or use source.hf"
    )]
    HostPath {
        /// As it is.
        path: String,
        /// The allowed folders, for people.
        allowed: String,
    },
    /// Somebody else's object has the name.
    #[error(
        "a {kind} named {name} exists already and does not belong to this LocalModel; delete it or rename the LocalModel"
    )]
    NameTaken {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
    },
}

/// Turns a LocalModel into one that can be built, or says why not.
///
/// # Errors
/// One [`ValidateError`] for the first thing that is wrong.
pub fn validate(
    object: &LocalModel,
    references: &References,
    config: &OperatorConfig,
) -> Result<ValidatedModel, ValidateError> {
    let name = validate_name(object)?;
    let namespace = object.namespace().ok_or(ValidateError::Metadata)?;
    let owner = object.controller_owner_ref(&()).ok_or(ValidateError::Metadata)?;
    let spec = &object.spec;
    let weights = validate_source(&spec.source, &config.allowed_host_path_prefixes)?;
    validate_names_free(&name, references)?;
    let inputs = PodInputs {
        weights,
        serving: spec.serving.clone(),
        remainder: spec.weights.remainder,
        node_selector: spec.placement.node_selector.clone(),
        tolerations: spec.placement.tolerations.clone(),
        runtime_class_name: spec.placement.runtime_class_name.clone(),
    };
    let device = match spec.placement.device {
        Device::Auto => None,
        Device::Cuda => Some(Computes::Cuda),
        Device::Cpu => Some(Computes::Cpu),
    };
    Ok(ValidatedModel { name, namespace, owner, inputs, device })
}

fn validate_name(object: &LocalModel) -> Result<String, ValidateError> {
    let name = object.name_any();
    let is_letter_first = name.starts_with(|c: char| c.is_ascii_lowercase());
    let is_plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if is_letter_first && is_plain && !name.ends_with('-') && name.len() <= MAX_NAME_LENGTH {
        Ok(name)
    } else {
        Err(ValidateError::Name { name })
    }
}

fn validate_source(source: &Source, allowed: &[PathBuf]) -> Result<Weights, ValidateError> {
    match (&source.hf, &source.host_path) {
        (Some(hf), None) => {
            let is_repo = hf.repo.split('/').count() == 2 && hf.repo.split('/').all(is_plain_name);
            check_hub_name("repo", &hf.repo, is_repo)?;
            check_hub_name("revision", &hf.revision, is_plain_name(&hf.revision))?;
            for file in &hf.files {
                check_hub_name("files", file, file.split('/').all(is_plain_name))?;
            }
            Ok(Weights::Hub { repo: hf.repo.clone(), revision: hf.revision.clone(), files: hf.files.clone() })
        }
        (None, Some(host_path)) => validate_host_path(&host_path.path, allowed),
        _ => Err(ValidateError::SourceCount),
    }
}

fn check_hub_name(field: &'static str, value: &str, is_plain: bool) -> Result<(), ValidateError> {
    if is_plain { Ok(()) } else { Err(ValidateError::HubName { field, value: value.to_owned() }) }
}

/// One part of a path: never empty, never `..`, never an option of a command line.
fn is_plain_name(part: &str) -> bool {
    part.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

fn validate_host_path(path: &str, allowed: &[PathBuf]) -> Result<Weights, ValidateError> {
    let asked = Path::new(path);
    let is_plain = asked.is_absolute() && !asked.components().any(|part| part == Component::ParentDir);
    // strip_prefix compares whole parts, so /models does not allow /models-private
    let found = allowed.iter().find_map(|prefix| {
        let relative = asked.strip_prefix(prefix).ok()?;
        (!relative.as_os_str().is_empty()).then(|| (prefix.clone(), relative.to_owned()))
    });
    match found {
        Some((prefix, relative)) if is_plain => Ok(Weights::HostPath { prefix, relative }),
        _ => {
            let names: Vec<_> = allowed.iter().map(|prefix| prefix.display().to_string()).collect();
            let allowed = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            Err(ValidateError::HostPath { path: path.to_owned(), allowed })
        }
    }
}

fn validate_names_free(model: &str, references: &References) -> Result<(), ValidateError> {
    if let Some((copy, _)) = (0..).zip(&references.pods).find(|(_, pod)| pod.is_foreign()) {
        return Err(ValidateError::NameTaken { kind: "Pod", name: crate::build::pod_name(model, copy) });
    }
    if references.service.is_foreign() {
        return Err(ValidateError::NameTaken { kind: "Service", name: model.to_owned() });
    }
    if references.service_account.is_foreign() {
        return Err(ValidateError::NameTaken { kind: "ServiceAccount", name: model.to_owned() });
    }
    Ok(())
}

impl ValidateError {
    /// The reason of the condition.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Name { .. } | Self::Metadata => Reason::InvalidName,
            Self::SourceCount | Self::HubName { .. } => Reason::InvalidSource,
            Self::HostPath { .. } => Reason::HostPathNotAllowed,
            Self::NameTaken { .. } => Reason::NameTaken,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
