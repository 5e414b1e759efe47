//! Refuses what a plan may ask for and this backend lacks, before anything is read.

use crate::{Activation, CacheGroupKind, KvType, Limits, Op, Plan, PrepareError, RopeScaling};

/// # Errors
/// [`PrepareError::Unsupported`] naming the first thing that is lacking.
pub(super) fn check(plan: &Plan, limits: &Limits) -> Result<(), PrepareError> {
    let lacking = (limits.kv_type != KvType::Wide).then(|| "keys and values in 8 bits".to_owned());
    let recurrent = |kind| matches!(kind, CacheGroupKind::Recurrent { .. });
    let lacking = lacking
        .or_else(|| plan.cache_groups.iter().any(|group| recurrent(group.kind)).then(|| "recurrent layers".to_owned()));
    let yarn = |scaling| matches!(scaling, Some(RopeScaling::Yarn { .. }));
    let lacking = lacking
        .or_else(|| plan.rotaries.iter().any(|rotary| yarn(rotary.scaling)).then(|| "YaRN".to_owned()))
        .or_else(|| {
            plan.weights.iter().find(|spec| spec.shape.len() > 2).map(|spec| format!("the shape of {}", spec.name))
        })
        .or_else(|| plan.ops.iter().find_map(|op| lacking_in(plan, op)));
    match lacking {
        Some(what) => Err(PrepareError::Unsupported { backend: "cpu", what }),
        None => Ok(()),
    }
}

fn lacking_in(plan: &Plan, op: &Op) -> Option<String> {
    match *op {
        Op::Scale { .. }
        | Op::SoftCap { .. }
        | Op::SigmoidGateRows { .. }
        | Op::MoeRoute { .. }
        | Op::MoeExperts { .. }
        | Op::CausalConv { .. }
        | Op::GatedDeltaRule { .. } => Some(format!("the op {}", op.name())),
        Op::RmsNorm { input, weight, weight_offset, group_width, .. } => {
            let is_plain = weight.is_some() && weight_offset == 0.0 && group_width == plan.buffers[input.0].width;
            (!is_plain).then(|| "norms of heads, without weight or with an offset".to_owned())
        }
        Op::GatedActivation { activation, .. } => {
            (activation != Activation::Silu).then(|| format!("the activation {activation:?}"))
        }
        Op::PagedAttention { sinks, .. } => sinks.map(|_| "attention sinks".to_owned()),
        _ => None,
    }
}
