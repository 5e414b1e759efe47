//! Opens a checkpoint: finds out what it is, reads everything but the weights' bytes, checks that it fits together.

mod check;
mod folder;
mod python_json;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kindling_kernels::{WeightError, WeightSource};
use serde_json::{Map, Value};

use crate::architecture::{Checkpoint, Description, SpecError, detect};
use crate::chat_template::{ChatTemplate, TemplateError};
use crate::dialect::Dialect;
use crate::gguf::{GgufError, GgufHeader, GgufWeights, Metadata};
use crate::read_at::FileBytes;
use crate::safetensors::{DeclaredError, ShardError};
use crate::spec::ModelSpec;
use crate::tokenizer::{Tokenizer, TokenizerError};
use folder::Found;

/// A checkpoint that fits together; its weights have not been read yet.
pub struct OpenModel {
    /// What is computed.
    pub spec: ModelSpec,
    /// What it is, for status.
    pub facts: ModelFacts,
    /// Its tensors.
    pub weights: Arc<dyn WeightSource>,
    /// Its vocabulary.
    pub tokenizer: Arc<Tokenizer>,
    /// How a chat becomes text; base models have none.
    pub chat_template: Option<ChatTemplate>,
    /// How its answers in chats are to be read.
    pub dialect: Dialect,
}

/// A checkpoint without the parts that concern text: what a benchmark or a numeric test needs.
pub struct OpenWeights {
    /// What is computed.
    pub spec: ModelSpec,
    /// What it is.
    pub facts: ModelFacts,
    /// Its tensors.
    pub weights: Arc<dyn WeightSource>,
}

/// What a checkpoint is, for status and logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFacts {
    /// E.g. `LlamaForCausalLM`.
    pub architecture: String,
    /// Elements of all tensors that are used; tied ones count once.
    pub parameters: u64,
    /// The same without the experts that a token is not sent to.
    pub active_parameters: u64,
    /// The type of most bytes in the layers' linear weights, e.g. `Q4_1`.
    pub quantization: String,
    /// Stored bytes of all tensors that are used.
    pub weight_bytes: u64,
    /// Longest sequence that the model was made for, in tokens.
    pub context_length: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
}

/// Why a checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is nothing to open, or more than one thing.
    #[error("{} holds no model that can be opened: {problem}; it holds {listing}", path.display())]
    NotAModel {
        /// What was asked for.
        path: PathBuf,
        /// What is missing or too many.
        problem: String,
        /// Names in the folder, the first few.
        listing: String,
    },
    /// The system refused a file, or it is too large for what it is.
    #[error("read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A GGUF file is damaged or not supported.
    #[error("open gguf file {}", path.display())]
    Gguf {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: GgufError,
    },
    /// Safetensors files are damaged or not supported.
    #[error("open safetensors weights")]
    Safetensors(#[from] ShardError),
    /// The declared form of the weights is not supported, or not theirs.
    #[error("check the weights' form")]
    Quantization(#[from] DeclaredError),
    /// A JSON file beside the weights is damaged.
    #[error("parse {}", path.display())]
    Json {
        /// Which file.
        path: PathBuf,
        /// Line and column.
        source: serde_json::Error,
    },
    /// The architecture is unknown or its figures make no sense.
    #[error("make a model of {}", path.display())]
    Spec {
        /// What was opened.
        path: PathBuf,
        /// What is wrong.
        source: SpecError,
    },
    /// A tensor is missing or has the wrong shape.
    #[error("check the tensors")]
    Weight(#[from] WeightError),
    /// Tensors that the architecture has no use for: computing without them would give wrong answers.
    #[error("{count} tensors are not used by {architecture}, the first is {first}")]
    Unused {
        /// How many.
        count: usize,
        /// Who has no use for them.
        architecture: String,
        /// The first by name.
        first: String,
    },
    /// Rows of a tensor that no weight is made of: as with [`OpenError::Unused`].
    #[error("{count} rows of tensor {tensor} are not used by {architecture}")]
    UnusedRows {
        /// How many.
        count: usize,
        /// Who has no use for them.
        architecture: String,
        /// Their tensor.
        tensor: String,
    },
    /// The tokenizer is damaged or not supported.
    #[error("load the tokenizer")]
    Tokenizer(#[from] TokenizerError),
    /// The vocabulary does not fit the embedding.
    #[error("the tokenizer has ids up to {largest_id}, the embedding has {vocab_size} rows")]
    Vocabulary {
        /// Of the tokenizer.
        largest_id: usize,
        /// Of the model.
        vocab_size: usize,
    },
    /// The chat template does not compile.
    #[error("compile the chat template")]
    ChatTemplate(#[from] TemplateError),
}

/// Opens a `.gguf` file, a folder with `config.json` and safetensors, or a folder with exactly one `.gguf` file.
///
/// Reads heads and small files only, no weights.
///
/// # Errors
/// [`OpenError`] naming the file, tensor or key that is wrong; for a folder without a model, what it holds.
pub fn open(path: &Path) -> Result<OpenModel, OpenError> {
    let (opened, tokenizer, chat_template) = match find(path)? {
        Found::Gguf(file) => open_gguf(&file)?,
        Found::Safetensors { weights } => folder::open_safetensors(path, &weights)?,
    };
    let OpenWeights { spec, facts, weights } = opened;
    let (largest_id, vocab_size) = (tokenizer.vocab_size() - 1, spec.vocab_size);
    if largest_id >= vocab_size {
        return Err(OpenError::Vocabulary { largest_id, vocab_size });
    }
    let source = chat_template.as_ref().map_or("", ChatTemplate::source);
    let dialect = Dialect::detect(&facts.architecture, source, &tokenizer);
    Ok(OpenModel { spec, facts, weights, tokenizer: Arc::new(tokenizer), chat_template, dialect })
}

/// Opens a checkpoint as [`open`] does, but needs and reads neither tokenizer nor chat template.
///
/// # Errors
/// As [`open`].
pub fn open_weights(path: &Path) -> Result<OpenWeights, OpenError> {
    match find(path)? {
        Found::Gguf(file) => gguf_weights(&file).map(|(weights, _)| weights),
        Found::Safetensors { weights } => folder::open_weights(path, &weights).map(|(weights, _)| weights),
    }
}

/// The GGUF file that is opened for `path`, if it is one.
pub(crate) fn gguf_file(path: &Path) -> Result<Option<PathBuf>, OpenError> {
    Ok(match find(path)? {
        Found::Gguf(file) => Some(file),
        Found::Safetensors { .. } => None,
    })
}

/// `config.json`, which a GGUF file has not beside it, and the files with tensors.
pub(crate) type StoredFiles = (Option<Map<String, Value>>, Vec<PathBuf>);

/// Where the tensors of a checkpoint are.
pub(crate) fn stored_files(path: &Path) -> Result<StoredFiles, OpenError> {
    match find(path)? {
        Found::Gguf(file) => Ok((None, vec![file])),
        Found::Safetensors { weights } => folder::stored_files(path, &weights),
    }
}

fn find(path: &Path) -> Result<Found, OpenError> {
    if path.is_dir() { folder::find(path) } else { Ok(Found::Gguf(path.to_owned())) }
}

/// What [`open`] puts together.
type Parts = (OpenWeights, Tokenizer, Option<ChatTemplate>);

fn open_gguf(path: &Path) -> Result<Parts, OpenError> {
    let (weights, metadata) = gguf_weights(path)?;
    let tokenizer = Tokenizer::from_gguf(&metadata)?;
    let damaged = |source| OpenError::Gguf { path: path.to_owned(), source };
    let template = metadata.string("tokenizer.chat_template").map_err(damaged)?;
    let chat_template = template.map(|source| ChatTemplate::new(source, tokenizer.special_tokens())).transpose()?;
    Ok((weights, tokenizer, chat_template))
}

fn gguf_weights(path: &Path) -> Result<(OpenWeights, Metadata), OpenError> {
    let file = FileBytes::open(path).map_err(|source| OpenError::Read { path: path.to_owned(), source })?;
    let damaged = |source| OpenError::Gguf { path: path.to_owned(), source };
    let GgufHeader { metadata, tensors, .. } = GgufHeader::read(&file).map_err(damaged)?;
    let weights = GgufWeights::new(Box::new(file), tensors).map_err(damaged)?;
    let checkpoint = Checkpoint { description: Description::Gguf(&metadata), weights: &weights };
    let spec = make_spec(path, &checkpoint)?;
    let facts = check::facts(&spec, &weights, weights.names())?;
    Ok((OpenWeights { spec, facts, weights: Arc::new(weights) }, metadata))
}

fn make_spec(path: &Path, checkpoint: &Checkpoint<'_>) -> Result<ModelSpec, OpenError> {
    let made = detect(checkpoint).and_then(|architecture| architecture.spec(checkpoint));
    made.map_err(|source| OpenError::Spec { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
