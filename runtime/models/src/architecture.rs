//! The list of architectures, and how the one that a checkpoint needs is found.

use kindling_kernels::WeightSource;
use serde_json::{Map, Value};

use crate::gemma4::Gemma4;
use crate::gguf::{GgufError, Metadata};
use crate::gpt_oss::GptOss;
use crate::llama::Llama;
use crate::mistral::Mistral;
use crate::qwen2::Qwen2;
use crate::qwen3::Qwen3;
use crate::qwen3_5::{Qwen3_5, Qwen3_5Moe};
use crate::qwen3_moe::Qwen3Moe;
use crate::qwen3_next::Qwen3Next;
use crate::spec::ModelSpec;

/// Every architecture there is. Adding one: its file, and its line here.
pub static ARCHITECTURES: &[&dyn Architecture] =
    &[&Llama, &Mistral, &Qwen2, &Qwen3, &Qwen3Moe, &Qwen3Next, &Qwen3_5, &Qwen3_5Moe, &GptOss, &Gemma4];

/// One family of models, in one file.
pub trait Architecture: Sync {
    /// As in `config.json`, e.g. `LlamaForCausalLM`.
    fn name(&self) -> &'static str;

    /// Whether this checkpoint is of this architecture.
    ///
    /// # Errors
    /// The reason why not, in words.
    fn claims(&self, checkpoint: &Checkpoint<'_>) -> Result<(), String>;

    /// What the checkpoint becomes.
    ///
    /// # Errors
    /// [`SpecError`] naming the key that is missing, out of range or not supported.
    fn spec(&self, checkpoint: &Checkpoint<'_>) -> Result<ModelSpec, SpecError>;
}

/// What an architecture may look at.
pub struct Checkpoint<'a> {
    /// What the checkpoint says of itself.
    pub description: Description<'a>,
    /// Its tensors; GGUF files say some things only by having a tensor or not.
    pub weights: &'a dyn WeightSource,
}

/// Where the figures of a model stand.
#[derive(Clone, Copy)]
pub enum Description<'a> {
    /// `config.json` beside safetensors files.
    ConfigJson(&'a Map<String, Value>),
    /// The metadata of a GGUF file.
    Gguf(&'a Metadata),
}

/// Why no spec could be made.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// No architecture, or more than one, claims the checkpoint.
    #[error("no architecture fits: {0}")]
    NotClaimed(String),
    /// More than one claims it: a mistake in this program.
    #[error("more than one architecture claims the checkpoint: {0}")]
    ClaimedTwice(String),
    /// `config.json` lacks keys, or they are of the wrong type.
    #[error("config.json does not describe a {architecture}")]
    Config {
        /// Which was tried.
        architecture: &'static str,
        /// Names the key.
        source: serde_json::Error,
    },
    /// A GGUF key is of the wrong type.
    #[error("read the model's dimensions from the gguf metadata")]
    Metadata(#[from] GgufError),
    /// A GGUF key is missing.
    #[error("metadata {key} is missing")]
    MissingKey {
        /// Its name.
        key: String,
    },
    /// A figure that cannot be.
    #[error("{key} is {found}, {expected}")]
    OutOfRange {
        /// Key as in the checkpoint.
        key: String,
        /// Its value.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// Something that exists but that is not built here.
    #[error("{key} {found} is not supported, {supported}")]
    Unsupported {
        /// Key as in the checkpoint.
        key: String,
        /// Its value.
        found: String,
        /// What is.
        supported: String,
    },
}

impl SpecError {
    pub(crate) fn out_of_range(key: &str, found: impl ToString, expected: impl Into<String>) -> Self {
        Self::OutOfRange { key: key.to_owned(), found: found.to_string(), expected: expected.into() }
    }

    pub(crate) fn unsupported(key: &str, found: &str, supported: &str) -> Self {
        Self::Unsupported { key: key.to_owned(), found: found.to_owned(), supported: supported.to_owned() }
    }
}

impl<'a> Checkpoint<'a> {
    /// For families whose GGUF files, of `gguf`, have their parts in orders that are not known here.
    ///
    /// # Errors
    /// [`SpecError::Unsupported`] for such a file.
    pub(crate) fn config_json(&self, gguf: &str) -> Result<&'a Map<String, Value>, SpecError> {
        match self.description {
            Description::ConfigJson(config) => Ok(config),
            Description::Gguf(_) => {
                Err(SpecError::unsupported("general.architecture", gguf, "only safetensors of this family are"))
            }
        }
    }

    /// Whether `config.json` names `class` alone, or the GGUF file is of `gguf`, where the family has a name there.
    ///
    /// # Errors
    /// What it says instead.
    pub(crate) fn is_of(&self, class: &str, gguf: Option<&str>) -> Result<(), String> {
        match self.description {
            Description::ConfigJson(config) => match sole_class(config) {
                Some(found) if found == class => Ok(()),
                Some(found) => Err(format!("architectures in config.json says {found}")),
                None => Err("config.json has no list architectures with one name".to_owned()),
            },
            Description::Gguf(metadata) => match (metadata.string("general.architecture"), gguf) {
                (_, None) => Err("gguf files have no name for it".to_owned()),
                (Ok(Some(found)), Some(gguf)) if found == gguf => Ok(()),
                (Ok(Some(found)), Some(gguf)) => Err(format!("general.architecture is {found}, not {gguf}")),
                (Ok(None), _) => Err("metadata general.architecture is missing".to_owned()),
                (Err(error), _) => Err(error.to_string()),
            },
        }
    }
}

/// The one name in `architectures`.
fn sole_class(config: &Map<String, Value>) -> Option<&str> {
    match config.get("architectures")?.as_array()?.as_slice() {
        [class] => class.as_str(),
        _ => None,
    }
}

/// Finds the one architecture that claims the checkpoint.
///
/// # Errors
/// [`SpecError::NotClaimed`] with each one's reason, or [`SpecError::ClaimedTwice`].
pub fn detect(checkpoint: &Checkpoint<'_>) -> Result<&'static dyn Architecture, SpecError> {
    let mut claimants = Vec::new();
    let mut reasons = Vec::new();
    for architecture in ARCHITECTURES {
        match architecture.claims(checkpoint) {
            Ok(()) => claimants.push(*architecture),
            Err(reason) => reasons.push(format!("{}: {reason}", architecture.name())),
        }
    }
    match claimants.as_slice() {
        [architecture] => Ok(*architecture),
        [] => Err(SpecError::NotClaimed(reasons.join("; "))),
        several => {
            let names: Vec<_> = several.iter().map(|architecture| architecture.name()).collect();
            Err(SpecError::ClaimedTwice(names.join(", ")))
        }
    }
}
