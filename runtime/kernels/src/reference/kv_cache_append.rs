//! Writes a step's keys and values into the blocks of their sequences.

use super::KvCache;
use crate::{CacheGroupId, Step};

/// Stores each row of `(keys, values)`, `[num_tokens, num_kv_heads * head_dim]`, at its position's slot.
pub(super) fn kv_cache_append(
    cache: &mut KvCache,
    (group, layer): (CacheGroupId, usize),
    step: &Step,
    (keys, values): (&[f32], &[f32]),
) {
    for sequence in &step.sequences {
        for offset in 0..sequence.query_len {
            let slot = cache.row(layer, &sequence.block_tables[group.0], sequence.context_len + offset);
            let row = (sequence.query_start + offset) * cache.row_len;
            cache.keys[slot.clone()].copy_from_slice(&keys[row..row + cache.row_len]);
            cache.values[slot].copy_from_slice(&values[row..row + cache.row_len]);
        }
    }
}
