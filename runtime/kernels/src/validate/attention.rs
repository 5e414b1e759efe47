//! Checks of rotary embeddings, the cache of keys and values, and attention.

use super::{differ, ensure, has_rows, has_shape, has_width, same_shape};
use crate::{CacheGroupId, CacheGroupKind, Op, Plan, RotaryId, Rows};

pub(super) fn check(plan: &Plan, op: &Op) -> Result<(), String> {
    match *op {
        Op::Rotary { buffer, num_heads, head_dim, table } => {
            let RotaryId(index) = table;
            let rotary = plan.rotaries.get(index).ok_or_else(|| format!("there is no rotary {index}"))?;
            ensure(rotary.rotary_dim <= head_dim, || {
                format!("rotary_dim {} exceeds head_dim {head_dim}", rotary.rotary_dim)
            })?;
            has_rows(plan, buffer, Rows::Tokens)?;
            has_width(plan, buffer, num_heads.saturating_mul(head_dim))
        }
        Op::KvCacheAppend { key, value, group, layer, kv_scales } => {
            if let Some((key_scale, value_scale)) = kv_scales {
                has_shape(plan, key_scale, &[1])?;
                has_shape(plan, value_scale, &[1])?;
            }
            let kv_width = cache_layer(plan, group, layer)?;
            for buffer in [key, value] {
                has_rows(plan, buffer, Rows::Tokens)?;
                has_width(plan, buffer, kv_width)?;
            }
            Ok(())
        }
        Op::PagedAttention { query, output, num_heads, scale: _, sinks, group, layer } => {
            cache_layer(plan, group, layer)?;
            let spec = &plan.cache_groups[group.0];
            ensure(num_heads > 0 && num_heads % spec.num_kv_heads == 0, || {
                format!("{num_heads} query heads are no multiple of {} kv heads", spec.num_kv_heads)
            })?;
            sinks.map_or(Ok(()), |sinks| has_shape(plan, sinks, &[num_heads]))?;
            differ(query, output)?;
            same_shape(plan, query, output)?;
            has_rows(plan, query, Rows::Tokens)?;
            has_width(plan, query, num_heads.saturating_mul(spec.head_dim))
        }
        _ => Ok(()),
    }
}

/// Width of a row of keys of this layer.
fn cache_layer(plan: &Plan, group: CacheGroupId, layer: usize) -> Result<usize, String> {
    let spec = plan.cache_groups.get(group.0).ok_or_else(|| format!("there is no cache group {}", group.0))?;
    ensure(layer < spec.num_layers, || format!("layer {layer} of a cache group of {} layers", spec.num_layers))?;
    let is_recurrent = matches!(spec.kind, CacheGroupKind::Recurrent { .. });
    ensure(!is_recurrent, || format!("cache group {} is recurrent, keys and values have no place there", group.0))?;
    Ok(spec.num_kv_heads * spec.head_dim)
}
