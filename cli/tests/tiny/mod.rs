//! A model small enough for a test of the whole program.
#![allow(dead_code, reason = "every test uses a part of it")]

use std::path::Path;

use serde_json::{Value, json};

/// The tiny Llama of the models' goldens, with a tokenizer that has a token for each byte.
pub fn model(name: &str) -> tempfile::TempDir {
    model_of(name, "tiny_llama")
}

/// Another of them.
pub fn model_of(name: &str, golden: &str) -> tempfile::TempDir {
    let scratch = tempfile::Builder::new().prefix(&format!("kindling-{name}-")).tempdir().expect("make a folder");
    let folder = scratch.path();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/models/tests/golden").join(golden);
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(golden.join(name), folder.join(name)).expect("copy the golden");
    }
    std::fs::write(folder.join("tokenizer.json"), byte_tokenizer()).expect("write the tokenizer");
    scratch
}

/// Printable ASCII, as byte-level tokenizers write it, after three tokens that are text too: a model with random weights may
/// say nothing else, and what shows nothing can't be measured.
fn byte_tokenizer() -> String {
    let special = |(id, name): (usize, &&str)| {
        json!({"id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
               "special": false})
    };
    let specials = ["<unk>", "<s>", "</s>"];
    let mut vocab: serde_json::Map<String, Value> =
        specials.iter().enumerate().map(|(id, name)| ((*name).to_owned(), id.into())).collect();
    for letter in ('!'..='~').chain(['\u{120}']) {
        vocab.insert(letter.to_string(), vocab.len().into());
    }
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": specials.iter().enumerate().map(special).collect::<Vec<_>>(),
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []},
    })
    .to_string()
}
