//! A checkpoint in a folder or a file: by the runtime's own reader, else by what it says of itself.

use std::collections::HashSet;
use std::error::Error;
use std::path::Path;

use kindling_agent::hub::Traffic;
use kindling_envelope::facts::{DescribeError, Described};
use kindling_models::architecture::SpecError;
use kindling_models::gguf::{Array, Metadata, Value as GgufValue};
use kindling_models::{OpenError, OpenWeights, StoredCheckpoint, StoredDescription, open_weights, read_stored};
use serde_json::{Map, Value};

use crate::planned::Lowered;
use crate::{Facts, FactsError, stored};

/// Longer lists in metadata are vocabularies.
const MAX_LIST: usize = 4096;

/// Reads the heads of a checkpoint on disk.
///
/// # Errors
/// [`FactsError::Open`] if it is none, or damaged; [`FactsError::Describe`] if the runtime cannot run it and what it keeps
/// is not known either.
pub(crate) fn describe(path: &Path) -> Result<Facts, FactsError> {
    let checkpoint = read_stored(path)?;
    if let StoredDescription::Gguf(metadata) = &checkpoint.description
        && let Ok(Some(parts)) = metadata.unsigned("split.count")
        && parts > 1
    {
        return Err(FactsError::Split { parts });
    }
    match open_weights(path) {
        Ok(opened) => Ok(runnable(&checkpoint, opened)),
        Err(error) => {
            let reason = reason(&error);
            let described = match description(&checkpoint) {
                Ok(described) => described,
                Err(source) => return Err(FactsError::Describe { reason, source }),
            };
            Ok(not_runnable(&checkpoint, described, reason))
        }
    }
}

fn runnable(checkpoint: &StoredCheckpoint, opened: OpenWeights) -> Facts {
    let OpenWeights { spec, facts, weights } = opened;
    let plan = spec.lower();
    let named: HashSet<&str> = plan
        .weights
        .iter()
        .flat_map(|weight| weight.rows.iter().map(|r| r.tensor.as_str()).chain([weight.name.as_str()]))
        .collect();
    // An output matrix that is stored but tied, and heads that guess ahead, are what the reader lets pass unused.
    let is_loaded = |name: &str| !name.starts_with("mtp.") && (name != "lm_head.weight" || named.contains(name));
    let stored = stored::sum(checkpoint, &is_loaded);
    let lowered = Lowered::new(plan, weights, stored.largest_tensor);
    Facts {
        architecture: facts.architecture,
        max_context: facts.context_length as u64,
        cache: lowered.cache(),
        vocabulary: Some(facts.vocab_size as u64),
        parameters: Some(facts.parameters),
        active_parameters: Some(facts.active_parameters),
        quantization: facts.quantization,
        stored,
        runnable: Ok(()),
        traffic: Traffic::default(),
        lowered: Some(lowered),
    }
}

fn not_runnable(checkpoint: &StoredCheckpoint, described: Described, reason: String) -> Facts {
    let is_loaded = |name: &str| described.is_loaded(name);
    let stored = stored::sum(checkpoint, &is_loaded);
    Facts {
        parameters: stored::parameters(checkpoint, &is_loaded),
        active_parameters: None,
        quantization: stored::quantization(checkpoint, &stored),
        stored,
        architecture: described.architecture,
        max_context: described.max_context,
        cache: described.cache,
        vocabulary: None,
        runnable: Err(reason),
        traffic: Traffic::default(),
        lowered: None,
    }
}

/// What the checkpoint says of itself.
pub(crate) fn description(checkpoint: &StoredCheckpoint) -> Result<Described, DescribeError> {
    match &checkpoint.description {
        StoredDescription::ConfigJson(config) => Described::from_config(config),
        StoredDescription::Gguf(metadata) => Described::from_gguf(&as_json(metadata)),
    }
}

/// All but texts beyond names, and vocabularies.
fn as_json(metadata: &Metadata) -> Map<String, Value> {
    let value = |value: &GgufValue| match value {
        GgufValue::Unsigned(number) => Some(Value::from(*number)),
        GgufValue::Signed(number) => Some(Value::from(*number)),
        GgufValue::Float(number) => Some(Value::from(*number)),
        GgufValue::Bool(flag) => Some(Value::from(*flag)),
        GgufValue::String(text) => Some(Value::from(text.as_str())),
        GgufValue::Array(Array::Integers(list)) if list.len() <= MAX_LIST => Some(Value::from(list.as_slice())),
        GgufValue::Array(Array::Bools(list)) if list.len() <= MAX_LIST => Some(Value::from(list.as_slice())),
        GgufValue::Array(_) => None,
    };
    metadata.iter().filter_map(|(key, found)| Some((key.to_owned(), value(found)?))).collect()
}

/// Why the runtime cannot run it, in short where the checkpoint is of another family altogether.
fn reason(error: &OpenError) -> String {
    match error {
        OpenError::Spec { source: SpecError::NotClaimed(_), .. } => "it has no such architecture yet".to_owned(),
        other => chain(other),
    }
}

/// An error and all its causes, in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
