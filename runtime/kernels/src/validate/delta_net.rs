//! Checks of the gated delta net.

use super::{differ, ensure, has_rows, has_shape, has_width};
use crate::{CacheGroupId, CacheGroupKind, DeltaNetShape, Op, Plan, Rows};

pub(super) fn check(plan: &Plan, op: &Op) -> Result<(), String> {
    match *op {
        Op::CausalConv { buffer, weight, shape, group, layer } => {
            check_state(plan, shape, group, layer)?;
            has_rows(plan, buffer, Rows::Tokens)?;
            has_width(plan, buffer, shape.conv_channels())?;
            has_shape(plan, weight, &[shape.conv_channels(), shape.conv_kernel])
        }
        Op::GatedDeltaRule { qkv, beta, alpha, a_log, dt_bias, shape, group, layer, output } => {
            check_state(plan, shape, group, layer)?;
            differ(qkv, output)?;
            let heads = shape.num_value_heads;
            let widths =
                [(qkv, shape.conv_channels()), (beta, heads), (alpha, heads), (output, heads * shape.value_dim)];
            for (buffer, width) in widths {
                has_rows(plan, buffer, Rows::Tokens)?;
                has_width(plan, buffer, width)?;
            }
            has_shape(plan, a_log, &[heads])?;
            has_shape(plan, dt_bias, &[heads])
        }
        _ => Ok(()),
    }
}

fn check_state(plan: &Plan, shape: DeltaNetShape, group: CacheGroupId, layer: usize) -> Result<(), String> {
    let DeltaNetShape { num_key_heads, num_value_heads, key_dim, value_dim, conv_kernel } = shape;
    let sizes = [num_key_heads, num_value_heads, key_dim, value_dim, conv_kernel];
    let is_whole = sizes.iter().all(|size| *size > 0) && num_value_heads % num_key_heads == 0;
    ensure(is_whole, || format!("sizes of a delta net are inconsistent: {shape:?}"))?;
    let spec = plan.cache_groups.get(group.0).ok_or_else(|| format!("there is no cache group {}", group.0))?;
    ensure(layer < spec.num_layers, || format!("layer {layer} of a cache group of {} layers", spec.num_layers))?;
    let needed = CacheGroupKind::Recurrent { state_len: shape.state_len() };
    ensure(spec.kind == needed, || format!("cache group {} is {:?}, expected {needed:?}", group.0, spec.kind))
}
