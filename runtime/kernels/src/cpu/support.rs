//! Refuses what a plan may ask for and this backend lacks, before anything is read.

use crate::{CacheGroupKind, Op, Plan, PrepareError};

/// # Errors
/// [`PrepareError::Unsupported`] naming the first thing that is lacking.
pub(super) fn check(plan: &Plan) -> Result<(), PrepareError> {
    let unsupported = |what: String| Err(PrepareError::Unsupported { backend: "cpu", what });
    if plan.cache_groups.iter().any(|group| matches!(group.kind, CacheGroupKind::Recurrent { .. })) {
        return unsupported("recurrent layers".to_owned());
    }
    let lacking = plan.ops.iter().find(|op| matches!(op, Op::CausalConv { .. } | Op::GatedDeltaRule { .. }));
    lacking.map_or(Ok(()), |op| unsupported(format!("the op {}", op.name())))
}
