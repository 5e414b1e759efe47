//! Holds the tensors that a spec needs against those that are there, and sums them up.

mod coverage;

use std::collections::BTreeMap;

use kindling_kernels::{ExpertWeights, Op, Plan, WeightError, WeightId, WeightSource, WeightSpec};

use super::{ModelFacts, OpenError};
use crate::spec::ModelSpec;
use coverage::Coverage;

/// Tensors that checkpoints carry and nobody needs: tables that are computed, a tied output matrix, and heads that guess
/// several tokens ahead.
fn may_be_unused(name: &str) -> bool {
    name.starts_with("mtp.") || name.ends_with(".rotary_emb.inv_freq") || name == "lm_head.weight"
}

/// Checks every tensor's presence and shape, that none is left over, and that no row of one is.
///
/// # Errors
/// [`OpenError::Weight`], [`OpenError::Unused`] or [`OpenError::UnusedRows`] with the tensor's name.
pub(super) fn facts<'a>(
    spec: &ModelSpec,
    weights: &dyn WeightSource,
    names: impl Iterator<Item = &'a str>,
) -> Result<ModelFacts, OpenError> {
    let plan = spec.lower();
    let mut coverage = Coverage::default();
    for weight in &plan.weights {
        check_shape(weight, weights)?;
        coverage.add(weight);
    }
    let mut unused: Vec<&str> = names.filter(|name| !coverage.has(name) && !may_be_unused(name)).collect();
    unused.sort_unstable();
    let architecture = spec.architecture.clone();
    if let Some(first) = unused.first() {
        return Err(OpenError::Unused { count: unused.len(), architecture, first: (*first).to_owned() });
    }
    let used = coverage.sum(weights)?;
    if let Some((tensor, count)) = used.with_unused_rows {
        return Err(OpenError::UnusedRows { count, architecture, tensor });
    }
    Ok(ModelFacts {
        architecture,
        parameters: used.elements,
        active_parameters: used.elements - idle_parameters(&plan),
        quantization: quantization(spec, &plan, weights),
        weight_bytes: used.num_bytes,
        context_length: spec.context_length,
        vocab_size: spec.vocab_size,
    })
}

fn check_shape(weight: &WeightSpec, weights: &dyn WeightSource) -> Result<(), WeightError> {
    let described = |name: &str| weights.describe(name).ok_or_else(|| WeightError::Missing { name: name.to_owned() });
    if weight.rows.is_empty() {
        let desc = described(&weight.name)?;
        if desc.shape != weight.shape {
            return Err(WeightError::Shape { name: desc.name, found: desc.shape, expected: weight.shape.clone() });
        }
        return Ok(());
    }
    for range in &weight.rows {
        let desc = described(&range.tensor)?;
        let end = range.first + range.count.saturating_sub(1) * range.step + 1;
        if desc.shape.last() != weight.shape.last() || end > desc.num_rows() || range.count == 0 {
            let row_len = weight.row_len();
            let problem = format!("its shape is {:?}, rows of {row_len} up to row {end} are needed", desc.shape);
            return Err(WeightError::Part { name: range.tensor.clone(), weight: weight.name.clone(), problem });
        }
    }
    Ok(())
}

/// Elements of the experts that a token is not sent to.
fn idle_parameters(plan: &Plan) -> u64 {
    let elements = |id: WeightId| plan.weights[id.0].shape.iter().map(|size| *size as u64).product::<u64>();
    let idle = |op: &Op| match op {
        Op::MoeExperts { routes, experts, top_k, .. } => {
            let ExpertWeights { gate, up, down, gate_bias, up_bias, down_bias } = *experts;
            let biases = [gate_bias, up_bias, down_bias].into_iter().flatten();
            let all: u64 = [gate, up, down].into_iter().chain(biases).map(elements).sum();
            let num_experts = plan.buffers[routes.0].width as u64;
            all / num_experts * (num_experts - *top_k as u64)
        }
        _ => 0,
    };
    plan.ops.iter().map(idle).sum()
}

/// The type of most bytes in the matrices of all layers.
fn quantization(spec: &ModelSpec, plan: &Plan, weights: &dyn WeightSource) -> String {
    let matrices = plan.ops.iter().flat_map(|op| match op {
        Op::Linear { weight, .. } => vec![*weight],
        Op::MoeExperts { experts, .. } => vec![experts.gate, experts.up, experts.down],
        _ => Vec::new(),
    });
    let mut bytes: BTreeMap<&str, usize> = BTreeMap::new();
    for weight in matrices.map(|WeightId(index)| &plan.weights[index]).filter(|weight| **weight != spec.lm_head.weight)
    {
        let first = weight.rows.first().map_or(&weight.name, |range| &range.tensor);
        if let Some(desc) = weights.describe(first) {
            *bytes.entry(desc.dtype.name()).or_default() += desc.row_bytes() * weight.num_rows();
        }
    }
    bytes.into_iter().max_by_key(|(_, bytes)| *bytes).map_or_else(String::new, |(name, _)| name.to_owned())
}
