//! The JSON files beside the weights.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::job::Source;
use super::outputs::Output;
use super::{QuantizeError, from_gguf};
use crate::gguf::Metadata;
use crate::tokenizer::{Tokenizer, gguf_document};

/// Copied where the source has them.
const COPIED: [&str; 9] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
];

/// Writes `config.json`, `hf_quant_config.json` and the tokenizer's files.
pub(super) fn write(source: &Source, outputs: &[Output], folder: &Path) -> Result<(), QuantizeError> {
    let mut config = match &source.metadata {
        Some(metadata) => {
            write_tokenizer(metadata, folder)?;
            from_gguf::config(source, metadata)?
        }
        None => {
            for name in COPIED.iter().filter(|name| source.path.join(name).exists()) {
                let path = folder.join(name);
                std::fs::copy(source.path.join(name), &path).map_err(|source| QuantizeError::Write { path, source })?;
            }
            config_of(&source.path)?
        }
    };
    let kept = kept_modules(outputs);
    for key in ["torch_dtype", "dtype"] {
        if config.contains_key(key) {
            config.insert(key.to_owned(), json!("bfloat16"));
        }
    }
    let producer = json!({"name": "kindling", "version": env!("CARGO_PKG_VERSION")});
    let declared = json!({
        "quant_method": "modelopt",
        "quant_algo": "W4A16_NVFP4",
        "producer": producer,
        "group_size": 16,
        "kv_cache_scheme": null,
        "ignore": kept,
    });
    config.insert("quantization_config".to_owned(), declared);
    json_file(folder, "config.json", &Value::Object(config))?;
    let quantization =
        json!({"quant_algo": "W4A16_NVFP4", "kv_cache_quant_algo": null, "group_size": 16, "exclude_modules": kept});
    json_file(folder, "hf_quant_config.json", &json!({"producer": producer, "quantization": quantization}))
}

/// Matrices that stayed BF16 although other engines would look for scales, by their modules' names. A tied output matrix
/// is none of the outputs, and is named all the same.
fn kept_modules(outputs: &[Output]) -> Vec<&str> {
    let module = |output: &Output| output.name.strip_suffix(".weight").map(str::len);
    let kept = outputs.iter().filter(|output| output.is_product && !output.is_quantized);
    let mut names: Vec<&str> = kept.filter_map(|output| Some(&output.name[..module(output)?])).collect();
    names.retain(|name| name.contains(".layers."));
    let is_quantized = outputs.iter().any(|output| output.is_quantized && output.name == "lm_head.weight");
    names.extend((!is_quantized).then_some("lm_head"));
    names
}

fn config_of(folder: &Path) -> Result<Map<String, Value>, QuantizeError> {
    let path = folder.join("config.json");
    let read = || serde_json::from_slice(&std::fs::read(&path)?).map_err(std::io::Error::from);
    read().map_err(|source| QuantizeError::Write { path: path.clone(), source })
}

fn json_file(folder: &Path, name: &str, value: &Value) -> Result<(), QuantizeError> {
    let path = folder.join(name);
    std::fs::write(&path, format!("{value:#}\n")).map_err(|source| QuantizeError::Write { path, source })
}

/// The document that our own tokenizer is made from is a `tokenizer.json`.
fn write_tokenizer(metadata: &Metadata, folder: &Path) -> Result<(), QuantizeError> {
    let tokenizer = Tokenizer::from_gguf(metadata)?;
    json_file(folder, "tokenizer.json", &gguf_document(metadata)?)?;
    let special = tokenizer.special_tokens();
    let roles = [
        ("bos_token", &special.bos),
        ("eos_token", &special.eos),
        ("eot_token", &special.eot),
        ("unk_token", &special.unk),
        ("pad_token", &special.pad),
        ("chat_template", &metadata.string("tokenizer.chat_template")?.map(str::to_owned)),
    ];
    let mut config = Map::new();
    config.insert("tokenizer_class".to_owned(), json!("PreTrainedTokenizerFast"));
    config.insert("clean_up_tokenization_spaces".to_owned(), json!(false));
    for (key, value) in roles {
        if let Some(value) = value {
            config.insert(key.to_owned(), json!(value));
        }
    }
    json_file(folder, "tokenizer_config.json", &Value::Object(config))?;
    json_file(folder, "generation_config.json", &json!({"eos_token_id": tokenizer.end_of_generation()}))
}
