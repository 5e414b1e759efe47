//! Keys and values of one cache group.

use crate::room::Room;
use crate::{CacheGroupSpec, KvType, Limits, PrepareError};

/// `[num_layers, num_blocks, block_size, num_kv_heads * head_dim]` f32 each; with a cache of 8 bits every element is one
/// that E4M3 has.
pub(crate) struct KvCache {
    block_size: usize,
    num_blocks: usize,
    /// Elements of a row.
    pub row_len: usize,
    /// How elements are kept.
    pub kv_type: KvType,
    /// Keys.
    pub keys: Vec<f32>,
    /// Values.
    pub values: Vec<f32>,
}

impl KvCache {
    /// Room for the group's layers.
    pub(super) fn new(
        spec: &CacheGroupSpec,
        limits: &Limits,
        num_blocks: usize,
        room: &Room,
    ) -> Result<Self, PrepareError> {
        let (row_len, block_size) = (spec.num_kv_heads * spec.head_dim, limits.block_size);
        let count = [spec.num_layers, num_blocks, block_size]
            .iter()
            .try_fold(row_len, |product, size| product.checked_mul(*size));
        let (keys, values) = (room.zeroes(count, "the KV cache")?, room.zeroes(count, "the KV cache")?);
        Ok(Self { block_size, num_blocks, row_len, kv_type: limits.kv_type, keys, values })
    }

    /// Where the row of `position` lies in `keys` and `values`.
    pub(super) fn row(&self, layer: usize, block_table: &[u32], position: usize) -> std::ops::Range<usize> {
        let block = block_table[position / self.block_size] as usize;
        let slot = (layer * self.num_blocks + block) * self.block_size + position % self.block_size;
        slot * self.row_len..(slot + 1) * self.row_len
    }
}
