//! Where goldens and the sample model are.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "this is test code, and skips are loud")]

use std::path::{Path, PathBuf};

use serde_json::Value;

/// A file in `tests/golden`.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

pub fn read_json(path: &Path) -> Value {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub fn text(value: &Value) -> &str {
    value.as_str().expect("should be a text")
}

pub fn ids(value: &Value) -> Vec<u32> {
    value.as_array().expect("should be a list").iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// The sample model: `KINDLING_SAMPLE_GGUF`, else the user's cache; else a printed skip.
pub fn sample_gguf() -> Option<PathBuf> {
    let name = "SmolLM2-135M-Instruct.Q4_1.gguf";
    let cache = || {
        let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
        std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home)
    };
    let named = std::env::var_os("KINDLING_SAMPLE_GGUF").map(PathBuf::from);
    let found = named.or_else(|| cache().map(|cache| cache.join("kindling").join(name)).filter(|path| path.exists()));
    if found.is_none() {
        println!("SKIPPED: no sample model; set KINDLING_SAMPLE_GGUF to {name}");
    }
    found
}
