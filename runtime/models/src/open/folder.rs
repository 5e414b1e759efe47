//! Folders: what they hold, and the files beside safetensors weights.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::python_json::without_odd_numbers;
use super::{OpenError, OpenWeights, Parts, StoredFiles, check, make_spec};
use crate::architecture::{Checkpoint, Description};
use crate::chat_template::ChatTemplate;
use crate::element_slices::ElementSlices;
use crate::read_at::{FileBytes, ReadAt};
use crate::safetensors::{self, DeclaredQuantization, SafetensorsWeights};
use crate::tokenizer::{SpecialTokens, Tokenizer};

const INDEX: &str = "model.safetensors.index.json";
/// Small JSON files; the index of the largest known model has 8 MiB.
const MAX_JSON_BYTES: u64 = 64 * 1024 * 1024;
/// The largest known tokenizer.json has 33 MiB.
const MAX_TOKENIZER_BYTES: u64 = 256 * 1024 * 1024;
/// Names that an error shows.
const MAX_LISTED: usize = 20;

/// What a folder turned out to be.
pub(super) enum Found {
    /// Exactly one GGUF file.
    Gguf(PathBuf),
    /// `config.json` and safetensors files.
    Safetensors {
        /// Where the tensors are.
        weights: Weights,
    },
}

/// How the tensors of a folder are found.
pub(super) enum Weights {
    /// In one file.
    File(PathBuf),
    /// In the files that an index names.
    Index(PathBuf),
}

/// Looks what is there.
pub(super) fn find(folder: &Path) -> Result<Found, OpenError> {
    let names = list(folder).map_err(|source| OpenError::Read { path: folder.to_owned(), source })?;
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    let ending = |end: &str| names.iter().filter(|name| name.ends_with(end)).collect::<Vec<_>>();
    let (gguf, safetensors) = (ending(".gguf"), ending(".safetensors"));
    let not_a_model = |problem: String| {
        let mut listing = names.iter().take(MAX_LISTED).cloned().collect::<Vec<_>>().join(", ");
        if names.len() > MAX_LISTED {
            listing = format!("{listing} and {} more", names.len() - MAX_LISTED);
        } else if names.is_empty() {
            listing = "nothing".to_owned();
        }
        Err(OpenError::NotAModel { path: folder.to_owned(), problem, listing })
    };
    if has("config.json") && !safetensors.is_empty() {
        let weights = match safetensors.as_slice() {
            _ if has(INDEX) => Weights::Index(folder.join(INDEX)),
            _ if has("model.safetensors") => Weights::File(folder.join("model.safetensors")),
            [only] => Weights::File(folder.join(only)),
            several => return not_a_model(format!("{} safetensors files, but no {INDEX}", several.len())),
        };
        return Ok(Found::Safetensors { weights });
    }
    match gguf.as_slice() {
        [only] => Ok(Found::Gguf(folder.join(only))),
        [] if !safetensors.is_empty() => not_a_model("config.json is missing beside the safetensors files".to_owned()),
        [] => not_a_model("neither config.json with safetensors files nor a gguf file".to_owned()),
        several => not_a_model(format!("{} gguf files, name one of them", several.len())),
    }
}

fn list(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Reads a small file whole.
fn read(path: &Path, max_bytes: u64) -> Result<Vec<u8>, OpenError> {
    let failed = |source| OpenError::Read { path: path.to_owned(), source };
    let file = FileBytes::open(path).map_err(failed)?;
    let num_bytes = file.num_bytes();
    if num_bytes > max_bytes {
        let problem = format!("it has {num_bytes} bytes, at most {max_bytes} are allowed");
        return Err(failed(io::Error::new(io::ErrorKind::InvalidData, problem)));
    }
    let mut bytes = vec![0; num_bytes as usize];
    file.read_exact_at(&mut bytes, 0).map_err(failed)?;
    Ok(bytes)
}

fn parse<T: DeserializeOwned>(path: PathBuf) -> Result<T, OpenError> {
    let bytes = read(&path, MAX_JSON_BYTES)?;
    let parsed = serde_json::from_slice(&bytes).or_else(|error| match without_odd_numbers(&bytes) {
        Some(bytes) => serde_json::from_slice(&bytes),
        None => Err(error),
    });
    parsed.map_err(|source| OpenError::Json { path, source })
}

/// A file that need not be there.
fn parse_optional<T: DeserializeOwned + Default>(path: PathBuf) -> Result<T, OpenError> {
    if path.exists() { parse(path) } else { Ok(T::default()) }
}

/// `config.json`, and the files that hold the tensors.
pub(super) fn stored_files(folder: &Path, place: &Weights) -> Result<StoredFiles, OpenError> {
    let config = parse(folder.join("config.json"))?;
    let files = match place {
        Weights::File(path) => vec![path.clone()],
        Weights::Index(path) => safetensors::shards(folder, &read(path, MAX_JSON_BYTES)?)?,
    };
    Ok((Some(config), files))
}

/// Opens safetensors weights as their `config.json` describes them.
pub(super) fn open_weights(folder: &Path, place: &Weights) -> Result<(OpenWeights, Map<String, Value>), OpenError> {
    let config: Map<String, Value> = parse(folder.join("config.json"))?;
    // Before the tensors: the name of a method says more than the first odd tensor.
    let declared = DeclaredQuantization::read(&config, &parse_optional(folder.join("hf_quant_config.json"))?)?;
    let weights: SafetensorsWeights = match place {
        Weights::File(path) => safetensors::open_file(path)?,
        Weights::Index(path) => safetensors::open_index(folder, &read(path, MAX_JSON_BYTES)?)?,
    };
    if let Some(declared) = declared {
        declared.check(&weights)?;
    }
    let weights = ElementSlices { source: weights };
    let checkpoint = Checkpoint { description: Description::ConfigJson(&config), weights: &weights };
    let spec = make_spec(&folder.join("config.json"), &checkpoint)?;
    let facts = check::facts(&spec, &weights, weights.source.names())?;
    Ok((OpenWeights { spec, facts, weights: Arc::new(weights) }, config))
}

/// Opens the weights and the files beside them.
pub(super) fn open_safetensors(folder: &Path, place: &Weights) -> Result<Parts, OpenError> {
    let (weights, config) = open_weights(folder, place)?;
    let generation_config: Map<String, Value> = parse_optional(folder.join("generation_config.json"))?;
    let tokenizer_config: Map<String, Value> = parse_optional(folder.join("tokenizer_config.json"))?;
    let special = special_tokens(&tokenizer_config);
    let mut end_of_generation = ids(config.get("eos_token_id"));
    end_of_generation.extend(ids(generation_config.get("eos_token_id")));
    let tokenizer = Tokenizer::from_json(&read(&folder.join("tokenizer.json"), MAX_TOKENIZER_BYTES)?)?
        .with_special_tokens(special, &end_of_generation);
    let chat_template = chat_template(folder, &tokenizer_config, tokenizer.special_tokens())?;
    Ok((weights, tokenizer, chat_template))
}

/// `eos_token_id` is a number or a list of them.
fn ids(value: Option<&Value>) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Some(Value::Array(values)) => values.iter().filter_map(id).collect(),
        Some(value) => id(value).into_iter().collect(),
        None => Vec::new(),
    }
}

/// Roles are names, or objects with the name in `content`.
fn special_tokens(tokenizer_config: &Map<String, Value>) -> SpecialTokens {
    let name = |key: &str| {
        let value = tokenizer_config.get(key)?;
        value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
    };
    SpecialTokens {
        bos: name("bos_token"),
        eos: name("eos_token"),
        eot: name("eot_token"),
        unk: name("unk_token"),
        pad: name("pad_token"),
    }
}

/// `chat_template.jinja` goes before `tokenizer_config.json`, as in `transformers`.
fn chat_template(
    folder: &Path,
    tokenizer_config: &Map<String, Value>,
    special: &SpecialTokens,
) -> Result<Option<ChatTemplate>, OpenError> {
    let path = folder.join("chat_template.jinja");
    if path.exists() {
        let bytes = read(&path, MAX_JSON_BYTES)?;
        return Ok(Some(ChatTemplate::new(&String::from_utf8_lossy(&bytes), special)?));
    }
    match tokenizer_config.get("chat_template") {
        Some(template) if !template.is_null() => Ok(Some(ChatTemplate::from_config(template, special)?)),
        _ => Ok(None),
    }
}
