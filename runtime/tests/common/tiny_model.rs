//! A model of a few hundred kilobytes, whose tokenizer has a token for each byte. Used by the gateway's tests too.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// By path from this file, so that any crate's tests can have it.
const GOLDEN: [(&str, &[u8]); 2] = [
    ("config.json", include_bytes!("../../models/tests/golden/tiny_llama/config.json")),
    ("model.safetensors", include_bytes!("../../models/tests/golden/tiny_llama/model.safetensors")),
];

/// A folder that is removed on drop.
pub struct TempDir(pub PathBuf);

impl TempDir {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("runtime-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The tiny Llama of the models' goldens, with a tokenizer that has a token for each byte.
pub fn tiny_model() -> TempDir {
    model_of(&GOLDEN)
}

/// The files of a model with 256 ids, with that tokenizer.
pub fn model_of(files: &[(&str, &[u8])]) -> TempDir {
    let folder = TempDir::new();
    for (name, bytes) in files {
        std::fs::write(folder.0.join(name), bytes).unwrap();
    }
    std::fs::write(folder.0.join("tokenizer.json"), byte_tokenizer()).unwrap();
    let template = "{% for message in messages %}{{ message.role[0] }}:{{ message.content }};{% endfor %}";
    let config = serde_json::json!({ "bos_token": "<s>", "eos_token": "</s>", "chat_template": template });
    std::fs::write(folder.0.join("tokenizer_config.json"), config.to_string()).unwrap();
    folder
}

/// Id of the token for a byte.
pub fn byte_token(byte: u8) -> u32 {
    u32::from(byte) + 3
}

fn byte_tokenizer() -> String {
    let specials = ["<unk>", "<s>", "</s>"];
    let mut vocab = serde_json::Map::new();
    let mut added = Vec::new();
    for (id, name) in specials.iter().enumerate() {
        vocab.insert((*name).to_owned(), id.into());
        added.push(serde_json::json!({
            "id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true,
        }));
    }
    // The byte-level alphabet: printable bytes are themselves, the others come after 255.
    let mut next_unprintable = 256;
    for byte in 0..=252_u8 {
        let is_printable = matches!(byte, 33..=126 | 161..=172 | 174..=255);
        let character = if is_printable { u32::from(byte) } else { next_unprintable };
        next_unprintable += u32::from(!is_printable);
        vocab.insert(char::from_u32(character).unwrap().to_string(), byte_token(byte).into());
    }
    serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "post_processor": null,
        "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": [],
        },
    })
    .to_string()
}
