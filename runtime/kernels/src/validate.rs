//! Checks that a plan does not contradict itself, so that backends may index by it without further checks.

mod attention;
mod delta_net;
mod moe;

use crate::{BufferId, CacheGroupKind, Limits, Op, Plan, PrepareError, Rows, WeightId};

/// Checks every id, width and row rule of `plan`, and that `limits` leave room for at least one token.
///
/// # Errors
/// [`PrepareError::Plan`] naming the op (by index) or the part that is wrong.
pub fn validate(plan: &Plan, limits: &Limits) -> Result<(), PrepareError> {
    check(plan, limits).map_err(PrepareError::Plan)
}

fn check(plan: &Plan, limits: &Limits) -> Result<(), String> {
    check_limits(limits)?;
    check_groups(plan, limits)?;
    ensure(plan.vocab_size > 0, || "vocab_size is 0".to_owned())?;
    for buffer in &plan.buffers {
        ensure(buffer.width > 0, || format!("buffer {} has width 0", buffer.name))?;
    }
    for (index, rotary) in plan.rotaries.iter().enumerate() {
        let even = rotary.rotary_dim > 0 && rotary.rotary_dim % 2 == 0;
        ensure(even, || format!("rotary {index}: rotary_dim is {}, expected an even number", rotary.rotary_dim))?;
        if let Some(factors) = rotary.frequency_factors {
            has_shape(plan, factors, &[rotary.rotary_dim / 2]).map_err(|e| format!("rotary {index}: {e}"))?;
        }
    }
    for (index, op) in plan.ops.iter().enumerate() {
        check_op(plan, op).map_err(|error| format!("op {index}: {error}"))?;
    }
    has_width(plan, plan.logits, plan.vocab_size)?;
    has_rows(plan, plan.logits, Rows::Logits)
}

fn check_limits(limits: &Limits) -> Result<(), String> {
    let Limits {
        max_tokens_per_step,
        max_sequences,
        max_logits_per_step,
        max_context,
        block_size,
        num_blocks: _,
        num_threads,
        kv_type: _,
    } = limits;
    let figures = [
        ("max_tokens_per_step", max_tokens_per_step),
        ("max_sequences", max_sequences),
        ("max_logits_per_step", max_logits_per_step),
        ("max_context", max_context),
        ("block_size", block_size),
        ("num_threads", num_threads),
    ];
    for (name, value) in figures {
        ensure(*value > 0, || format!("limit {name} is 0"))?;
    }
    Ok(())
}

fn check_groups(plan: &Plan, limits: &Limits) -> Result<(), String> {
    let (found, expected) = (limits.num_blocks.len(), plan.cache_groups.len());
    ensure(found == expected, || format!("limit num_blocks is given for {found} of {expected} cache groups"))?;
    for (index, (group, num_blocks)) in plan.cache_groups.iter().zip(&limits.num_blocks).enumerate() {
        ensure(*num_blocks > 0, || format!("limit num_blocks of cache group {index} is 0"))?;
        let product = match group.kind {
            CacheGroupKind::Recurrent { state_len } => state_len,
            CacheGroupKind::Full | CacheGroupKind::Window { .. } => {
                group.num_kv_heads.checked_mul(group.head_dim).unwrap_or(0)
            }
        };
        ensure(product > 0, || format!("cache group {index} has no heads or no elements"))?;
        let window = !matches!(group.kind, CacheGroupKind::Window { window: 0 });
        ensure(window, || format!("cache group {index} has a window of 0 tokens"))?;
    }
    Ok(())
}

fn check_op(plan: &Plan, op: &Op) -> Result<(), String> {
    match *op {
        Op::EmbedTokens { weight, output } => {
            has_rows(plan, output, Rows::Tokens)?;
            has_shape(plan, weight, &[plan.vocab_size, width(plan, output)?])
        }
        Op::RmsNorm { input, weight, eps: _, weight_offset: _, group_width, output } => {
            same_shape(plan, input, output)?;
            let width = width(plan, input)?;
            ensure(group_width > 0 && width % group_width == 0, || {
                format!("width {width} is no multiple of the norm's {group_width} elements")
            })?;
            weight.map_or(Ok(()), |weight| has_shape(plan, weight, &[group_width]))
        }
        Op::Linear { input, weight, bias, output } => {
            differ(input, output)?;
            same_rows(plan, input, output)?;
            has_shape(plan, weight, &[width(plan, output)?, width(plan, input)?])?;
            bias.map_or(Ok(()), |bias| has_shape(plan, bias, &[width(plan, output)?]))
        }
        Op::Rotary { .. } | Op::KvCacheAppend { .. } | Op::PagedAttention { .. } => attention::check(plan, op),
        Op::GatedActivation { gate, up, activation: _, output } => {
            same_shape(plan, gate, up)?;
            same_shape(plan, gate, output)
        }
        Op::Scale { buffer: id, factor: _, weight } => {
            buffer(plan, id)?;
            weight.map_or(Ok(()), |weight| has_shape(plan, weight, &[1]))
        }
        Op::SoftCap { buffer: id, cap } => {
            buffer(plan, id)?;
            ensure(cap > 0.0, || format!("cap is {cap}, expected more than 0"))
        }
        Op::SigmoidGateRows { gate, output } => {
            has_width(plan, gate, 1)?;
            same_rows(plan, gate, output)
        }
        Op::MoeRoute { .. } | Op::MoeExperts { .. } => moe::check(plan, op),
        Op::CausalConv { .. } | Op::GatedDeltaRule { .. } => delta_net::check(plan, op),
        Op::Add { input, output } => {
            differ(input, output)?;
            same_shape(plan, input, output)
        }
        Op::GatherLogitRows { input, output } => {
            has_rows(plan, input, Rows::Tokens)?;
            has_rows(plan, output, Rows::Logits)?;
            has_width(plan, output, width(plan, input)?)
        }
    }
}

fn ensure(holds: bool, message: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(message()) }
}

fn buffer(plan: &Plan, id: BufferId) -> Result<&crate::BufferSpec, String> {
    plan.buffers.get(id.0).ok_or_else(|| format!("there is no buffer {}", id.0))
}

fn width(plan: &Plan, id: BufferId) -> Result<usize, String> {
    buffer(plan, id).map(|spec| spec.width)
}

fn has_width(plan: &Plan, id: BufferId, expected: usize) -> Result<(), String> {
    let spec = buffer(plan, id)?;
    ensure(spec.width == expected, || format!("buffer {} has width {}, expected {expected}", spec.name, spec.width))
}

fn has_rows(plan: &Plan, id: BufferId, expected: Rows) -> Result<(), String> {
    let spec = buffer(plan, id)?;
    ensure(spec.rows == expected, || format!("buffer {} has rows {:?}, expected {expected:?}", spec.name, spec.rows))
}

fn same_rows(plan: &Plan, first: BufferId, second: BufferId) -> Result<(), String> {
    has_rows(plan, second, buffer(plan, first)?.rows)
}

fn same_shape(plan: &Plan, first: BufferId, second: BufferId) -> Result<(), String> {
    same_rows(plan, first, second)?;
    has_width(plan, second, width(plan, first)?)
}

fn differ(first: BufferId, second: BufferId) -> Result<(), String> {
    ensure(first != second, || format!("buffer {} is both input and output", first.0))
}

fn has_shape(plan: &Plan, id: WeightId, expected: &[usize]) -> Result<(), String> {
    let spec = plan.weights.get(id.0).ok_or_else(|| format!("there is no weight {}", id.0))?;
    ensure(spec.shape == expected, || format!("weight {} has shape {:?}, expected {expected:?}", spec.name, spec.shape))
}
