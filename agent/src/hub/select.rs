//! Which files of a repository make the model.

use super::HubError;
use crate::source::{HubSource, check_file_name};

/// Chooses files: what was asked for; else safetensors with their companions; else the only GGUF.
pub(super) fn select(source: &HubSource, asked: &[String], names: Vec<String>) -> Result<Vec<String>, HubError> {
    let source_name = source.to_string();
    // A listing is foreign data: names that could leave the folder are as good as absent.
    let names: Vec<String> = names.into_iter().filter(|name| check_file_name(name).is_ok()).collect();
    if !asked.is_empty() {
        return match asked.iter().find(|file| !names.contains(file)) {
            Some(file) => Err(HubError::NoSuchFile { source_name, file: file.clone(), names }),
            None => Ok(asked.to_vec()),
        };
    }
    if names.iter().any(|name| name == "config.json") && names.iter().any(|name| is_shard(name)) {
        return Ok(names.into_iter().filter(|name| is_shard(name) || is_companion(name)).collect());
    }
    let ggufs: Vec<String> = names.iter().filter(|name| name.ends_with(".gguf")).cloned().collect();
    match ggufs.len() {
        1 => Ok(ggufs),
        0 => Err(HubError::Ambiguous { source_name, found: "neither safetensors nor GGUF files".to_owned(), names }),
        count => Err(HubError::Ambiguous { source_name, found: format!("{count} GGUF files"), names: ggufs }),
    }
}

fn is_shard(name: &str) -> bool {
    !name.contains('/') && name.ends_with(".safetensors")
}

fn is_companion(name: &str) -> bool {
    matches!(
        name,
        "config.json"
            | "generation_config.json"
            | "hf_quant_config.json"
            | "model.safetensors.index.json"
            | "tokenizer.json"
            | "tokenizer_config.json"
            | "special_tokens_map.json"
            | "chat_template.jinja"
            | "chat_template.json"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(asked: &[&str], names: &[&str]) -> Result<Vec<String>, String> {
        let source = "hf:org/repo".parse().expect("source");
        let own = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        select(&source, &own(asked), own(names)).map_err(|error| error.to_string())
    }

    #[test]
    fn safetensors_come_with_config_and_tokenizer_and_nothing_else() {
        let files = chosen(&[], &["config.json", "model.safetensors", "tokenizer.json", "README.md", "onnx/m.onnx"]);
        assert_eq!(files.expect("files"), ["config.json", "model.safetensors", "tokenizer.json"]);
    }

    #[test]
    fn several_ggufs_need_a_choice_and_the_error_lists_them() {
        let error = chosen(&[], &["a.Q4_0.gguf", "a.Q8_0.gguf"]).expect_err("ambiguous");
        assert!(error.contains("2 GGUF files") && error.contains("a.Q4_0.gguf, a.Q8_0.gguf"), "{error}");
        assert_eq!(chosen(&["a.Q8_0.gguf"], &["a.Q4_0.gguf", "a.Q8_0.gguf"]).expect("asked"), ["a.Q8_0.gguf"]);
    }

    #[test]
    fn a_listing_cannot_name_files_outside_the_folder() {
        let error = chosen(&[], &["../../etc/model.gguf"]).expect_err("nothing left");
        assert!(error.contains("neither safetensors nor GGUF"), "{error}");
    }
}
