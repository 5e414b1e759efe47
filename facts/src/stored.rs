//! Sums over the tensors of a checkpoint, as they lie in its files.

use std::collections::BTreeMap;

use kindling_envelope::Bytes;
use kindling_models::{StoredCheckpoint, StoredDescription, StoredTensor};
use serde_json::Value;

use crate::Stored;

/// Sums up; `is_loaded` says which tensors a runtime reads.
pub(crate) fn sum(checkpoint: &StoredCheckpoint, is_loaded: &dyn Fn(&str) -> bool) -> Stored {
    let mut stored = Stored { files: checkpoint.num_files, ..Stored::default() };
    for StoredTensor { name, kind, num_bytes, .. } in &checkpoint.tensors {
        let bytes = Bytes(*num_bytes);
        let sum = if is_loaded(name) { &mut stored.loaded } else { &mut stored.not_loaded };
        *sum = *sum + bytes;
        stored.largest_tensor = stored.largest_tensor.max(bytes);
        let of_type = stored.by_type.entry(kind.clone()).or_default();
        *of_type = *of_type + bytes;
    }
    stored
}

/// What the configuration calls the form of its weights, else the type of most bytes.
pub(crate) fn quantization(checkpoint: &StoredCheckpoint, stored: &Stored) -> String {
    let declared = match &checkpoint.description {
        StoredDescription::ConfigJson(config) => config.get("quantization_config"),
        StoredDescription::Gguf(_) => None,
    };
    let text = |key: &str| declared?.get(key).and_then(Value::as_str);
    let most = || stored.by_type.iter().max_by_key(|(_, bytes)| **bytes).map(|(kind, _)| kind.clone());
    let declared = text("quant_algo").or_else(|| text("format")).or_else(|| text("quant_method")).map(str::to_owned);
    declared.or_else(most).unwrap_or_default()
}

/// Elements, where every tensor that is loaded has one number for each of its weights.
pub(crate) fn parameters(checkpoint: &StoredCheckpoint, is_loaded: &dyn Fn(&str) -> bool) -> Option<u64> {
    let loaded = || checkpoint.tensors.iter().filter(|tensor| is_loaded(&tensor.name));
    let mut kinds = BTreeMap::new();
    loaded().for_each(|tensor| *kinds.entry(tensor.kind.as_str()).or_insert(0) += 1);
    let is_plain = match &checkpoint.description {
        StoredDescription::ConfigJson(_) => kinds.keys().all(|kind| matches!(*kind, "F32" | "F16" | "BF16")),
        StoredDescription::Gguf(_) => true,
    };
    is_plain.then(|| loaded().map(|tensor| tensor.elements).sum())
}
