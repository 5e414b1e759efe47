//! Causal softmax attention over the cache of each sequence.

use super::KvCache;
use crate::{CacheGroupId, CacheGroupKind, CacheGroupSpec, Step};

/// One attention layer.
pub(super) struct AttentionSpec<'a> {
    /// Group that holds the layer.
    pub group: CacheGroupId,
    /// Layer within the group.
    pub layer: usize,
    /// Multiplies the scores.
    pub scale: f32,
    /// `[num_heads]`: a score per head that takes part in the softmax and has no value.
    pub sinks: Option<&'a [f32]>,
    /// What the group keeps.
    pub cache: &'a CacheGroupSpec,
}

/// Attends each row of `query` to its sequence's positions up to its own; `(query, output)`:
/// `[num_tokens, num_heads * head_dim]`.
pub(super) fn paged_attention(
    spec: &AttentionSpec<'_>,
    cache: &KvCache,
    step: &Step,
    (query, output): (&[f32], &mut [f32]),
) {
    let head_dim = spec.cache.head_dim;
    let row_len = query.len() / step.token_ids.len().max(1);
    let heads_per_kv_head = row_len / head_dim / spec.cache.num_kv_heads;
    for sequence in &step.sequences {
        let block_table = &sequence.block_tables[spec.group.0];
        for offset in 0..sequence.query_len {
            let position = sequence.context_len + offset;
            let row = (sequence.query_start + offset) * row_len;
            for head in 0..row_len / head_dim {
                let lanes = row + head * head_dim..row + (head + 1) * head_dim;
                let kv_lanes = head / heads_per_kv_head * head_dim..(head / heads_per_kv_head + 1) * head_dim;
                let rows: Vec<_> = (first_position(spec.cache.kind, position)..=position)
                    .map(|position| cache.row(spec.layer, block_table, position))
                    .collect();
                let keys = rows.iter().map(|row| &cache.keys[row.clone()][kv_lanes.clone()]);
                let values = rows.iter().map(|row| &cache.values[row.clone()][kv_lanes.clone()]);
                let sink = spec.sinks.map(|sinks| sinks[head]);
                attend(&query[lanes.clone()], (keys, values), (spec.scale, sink), &mut output[lanes]);
            }
        }
    }
}

fn first_position(kind: CacheGroupKind, position: usize) -> usize {
    match kind {
        CacheGroupKind::Full | CacheGroupKind::Recurrent { .. } => 0,
        CacheGroupKind::Window { window } => (position + 1).saturating_sub(window),
    }
}

fn attend<'a>(
    query: &[f32],
    (keys, values): (impl Iterator<Item = &'a [f32]>, impl Iterator<Item = &'a [f32]>),
    (scale, sink): (f32, Option<f32>),
    output: &mut [f32],
) {
    let mut scores: Vec<f32> = keys.map(|key| key.iter().zip(query).map(|(k, q)| k * q).sum::<f32>() * scale).collect();
    let highest = scores.iter().copied().chain(sink).fold(f32::NEG_INFINITY, f32::max);
    scores.iter_mut().for_each(|score| *score = (*score - highest).exp());
    let total = scores.iter().sum::<f32>() + sink.map_or(0.0, |sink| (sink - highest).exp());
    output.fill(0.0);
    for (score, value) in scores.iter().zip(values) {
        for (sum, element) in output.iter_mut().zip(value) {
            *sum += score / total * element;
        }
    }
}
