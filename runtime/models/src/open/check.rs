//! Holds the tensors that a spec needs against those that are there, and sums them up.

use std::collections::{BTreeMap, HashSet};

use kindling_kernels::{WeightError, WeightSource};

use super::{ModelFacts, OpenError};
use crate::spec::ModelSpec;

/// Tensors that old checkpoints carry and nobody needs: tables that are computed, and a tied output matrix.
fn may_be_unused(name: &str) -> bool {
    name.ends_with(".rotary_emb.inv_freq") || name == "lm_head.weight"
}

/// Checks every tensor's presence and shape, and that none is left over.
///
/// # Errors
/// [`OpenError::Weight`] or [`OpenError::Unused`] with the tensor's name.
pub(super) fn facts<'a>(
    spec: &ModelSpec,
    weights: &dyn WeightSource,
    names: impl Iterator<Item = &'a str>,
) -> Result<ModelFacts, OpenError> {
    let plan = spec.lower();
    let mut parameters = 0;
    let mut weight_bytes = 0;
    let mut used = HashSet::new();
    for weight in &plan.weights {
        let missing = || WeightError::Missing { name: weight.name.clone() };
        let desc = weights.describe(&weight.name).ok_or_else(missing)?;
        if desc.shape != weight.shape {
            let (found, expected) = (desc.shape, weight.shape.clone());
            return Err(WeightError::Shape { name: desc.name, found, expected }.into());
        }
        parameters += desc.shape.iter().product::<usize>() as u64;
        weight_bytes += desc.num_bytes as u64;
        used.insert(weight.name.as_str());
    }
    let mut unused: Vec<&str> = names.filter(|name| !used.contains(name) && !may_be_unused(name)).collect();
    unused.sort_unstable();
    if let Some(first) = unused.first() {
        let (architecture, first) = (spec.architecture.clone(), (*first).to_owned());
        return Err(OpenError::Unused { count: unused.len(), architecture, first });
    }
    Ok(ModelFacts {
        architecture: spec.architecture.clone(),
        parameters,
        quantization: quantization(spec, weights),
        weight_bytes,
        context_length: spec.context_length,
        vocab_size: spec.vocab_size,
    })
}

fn quantization(spec: &ModelSpec, weights: &dyn WeightSource) -> String {
    let mut bytes = BTreeMap::new();
    for desc in spec.layer_linears().filter_map(|linear| weights.describe(&linear.weight)) {
        *bytes.entry(desc.dtype.name()).or_insert(0) += desc.num_bytes;
    }
    bytes.into_iter().max_by_key(|(_, bytes)| *bytes).map_or_else(String::new, |(name, _)| name.to_owned())
}
