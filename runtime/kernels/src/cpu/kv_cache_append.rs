//! Writes a step's keys and values into the blocks of their sequences.
#![allow(unsafe_code)]

use super::isa::Kernel;
use super::kv_cache::KvLayer;
use super::kv_element::KvElement;
use super::lanes::{LANES, Lanes};
use super::rows::RowsView;
use crate::{CacheGroupId, Step};

/// Stores one head of every token. Heads are apart in memory, so tasks never meet, even if block tables do.
pub(super) struct KvCacheAppendTask<'a, E> {
    /// Where to.
    pub cache: KvLayer<'a, E>,
    /// `[num_tokens, num_kv_heads * head_dim]`.
    pub key: RowsView<'a>,
    /// Same shape.
    pub value: RowsView<'a>,
    /// Divide keys and values, where the elements are scaled.
    pub scales: [f32; 2],
    /// Sequences and their blocks.
    pub step: &'a Step,
    /// Which block tables.
    pub group: CacheGroupId,
    /// Which head.
    pub head: usize,
}

impl<E: KvElement> Kernel for KvCacheAppendTask<'_, E> {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let layout = self.cache.layout;
        let (block_size, head_dim, value_row) = (layout.block_size, layout.head_dim, layout.value_row());
        let columns = self.head * head_dim..(self.head + 1) * head_dim;
        let scales = if E::SCALED { self.scales.map(Some) } else { [None; 2] };
        for sequence in &self.step.sequences {
            for offset in 0..sequence.query_len {
                let position = sequence.context_len + offset;
                let (block, slot) = (sequence.block_tables[self.group.0][position / block_size], position % block_size);
                let row = sequence.query_start + offset;
                // SAFETY: this head belongs to this task alone; keys and values of the step are only read.
                let ((keys, values), key, value) = unsafe {
                    (
                        self.cache.block_mut(block, self.head),
                        &self.key.rows(row..row + 1)[columns.clone()],
                        &self.value.rows(row..row + 1)[columns.clone()],
                    )
                };
                let tile = &mut keys[slot / LANES * head_dim..(slot / LANES + 1) * head_dim];
                for (columns, key) in tile.chunks_mut(LANES).zip(key.chunks(LANES)) {
                    for (column, stored) in columns.iter_mut().zip(to_stored::<L, E>(lanes, key, scales[0])) {
                        column[slot % LANES] = stored;
                    }
                }
                let values = &mut values[slot * value_row..(slot + 1) * value_row];
                for (stored, value) in values.as_chunks_mut::<LANES>().0.iter_mut().zip(value.chunks(LANES)) {
                    *stored = to_stored(lanes, value, scales[1]);
                }
            }
        }
    }
}

#[inline(always)]
fn to_stored<L: Lanes, E: KvElement>(lanes: L, values: &[f32], divisor: Option<f32>) -> [E; LANES] {
    let mut padded = [0.0; LANES];
    match values.first_chunk::<LANES>() {
        Some(all) => padded = *all,
        None => padded[..values.len()].copy_from_slice(values),
    }
    if let Some(divisor) = divisor {
        lanes.store(lanes.div(lanes.load(&padded), lanes.splat(divisor)), &mut padded);
    }
    let mut stored = [E::ZERO; LANES];
    E::store(lanes, &padded, &mut stored);
    stored
}
