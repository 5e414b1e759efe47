//! Where keys and values lie: f16 in paged blocks, laid out for the attention kernel.
//!
//! A block of one layer and head holds its keys in tiles of sixteen positions, `[head_dim, 16]`, so that sixteen scores
//! are computed side by side; and its values as rows, `[block_size, padded_head_dim]`.
#![allow(unsafe_code)]

use std::marker::PhantomData;

use super::lanes::LANES;
use crate::load::zeroes;
use crate::{CacheGroupSpec, PrepareError};

/// Keys and values of one cache group.
pub(super) struct KvCache {
    layout: KvLayout,
    keys: Vec<u16>,
    values: Vec<u16>,
}

/// Sizes of a cache group.
#[derive(Debug, Clone, Copy)]
pub(super) struct KvLayout {
    /// Positions per block.
    pub block_size: usize,
    /// Blocks in the pool.
    pub num_blocks: usize,
    /// Heads.
    pub num_kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
}

impl KvLayout {
    /// Tiles of sixteen positions per block.
    pub fn tiles_per_block(&self) -> usize {
        self.block_size.div_ceil(LANES)
    }

    /// Elements of one row of values.
    pub fn value_row(&self) -> usize {
        self.head_dim.next_multiple_of(LANES)
    }

    fn key_block(&self) -> usize {
        self.tiles_per_block() * self.head_dim * LANES
    }

    fn value_block(&self) -> usize {
        self.block_size * self.value_row()
    }
}

impl KvCache {
    /// Zeroed blocks for every layer of `spec`.
    pub fn new(spec: &CacheGroupSpec, block_size: usize, num_blocks: usize) -> Result<Self, PrepareError> {
        let (num_kv_heads, head_dim) = (spec.num_kv_heads, spec.head_dim);
        let layout = KvLayout { block_size, num_blocks, num_kv_heads, head_dim };
        let padded = block_size.checked_add(LANES).and_then(|size| size.checked_mul(spec.head_dim + LANES));
        let blocks = [spec.num_layers, num_blocks, spec.num_kv_heads]
            .iter()
            .try_fold(1usize, |product, size| product.checked_mul(*size));
        let fits = blocks.zip(padded).and_then(|(blocks, padded)| blocks.checked_mul(padded));
        let count = |block: fn(&KvLayout) -> usize| fits.and(blocks).map(|blocks| blocks * block(&layout));
        Ok(Self {
            keys: zeroes(count(KvLayout::key_block), "the KV cache")?,
            values: zeroes(count(KvLayout::value_block), "the KV cache")?,
            layout,
        })
    }

    /// Size in memory.
    pub fn num_bytes(&self) -> usize {
        size_of_val(self.keys.as_slice()) + size_of_val(self.values.as_slice())
    }

    /// A view for the tasks of one op on one layer.
    pub fn layer(&mut self, layer: usize) -> KvLayer<'_> {
        KvLayer {
            keys: self.keys.as_mut_ptr(),
            values: self.values.as_mut_ptr(),
            layout: self.layout,
            layer,
            memory: PhantomData,
        }
    }
}

/// One layer of a [`KvCache`], shared by the tasks of one op.
#[derive(Clone, Copy)]
pub(super) struct KvLayer<'a> {
    keys: *mut u16,
    values: *mut u16,
    /// Sizes.
    pub layout: KvLayout,
    layer: usize,
    memory: PhantomData<&'a mut [u16]>,
}

// SAFETY: a view is two pointers; every access through it is unsafe and says who else may touch the elements.
unsafe impl Send for KvLayer<'_> {}
// SAFETY: as above.
unsafe impl Sync for KvLayer<'_> {}

impl<'a> KvLayer<'a> {
    #[inline(always)]
    fn index(&self, block: u32, head: usize) -> usize {
        let layout = &self.layout;
        assert!((block as usize) < layout.num_blocks && head < layout.num_kv_heads, "block {block}, head {head}");
        (self.layer * layout.num_blocks + block as usize) * layout.num_kv_heads + head
    }

    /// Keys, `[tiles, head_dim, 16]`, and values, `[block_size, value_row]`, of one block and head.
    ///
    /// # Safety
    /// Nobody may write them while the result lives.
    #[inline(always)]
    pub unsafe fn block(self, block: u32, head: usize) -> (&'a [[u16; LANES]], &'a [u16]) {
        let (index, layout) = (self.index(block, head), self.layout);
        let (keys, values) = (layout.key_block(), layout.value_block());
        // SAFETY: `index` is below the number of blocks that were allocated; the caller keeps writers away.
        unsafe {
            let keys = std::slice::from_raw_parts(self.keys.add(index * keys), keys);
            (keys.as_chunks().0, std::slice::from_raw_parts(self.values.add(index * values), values))
        }
    }

    /// The same, to write.
    ///
    /// # Safety
    /// Nobody else may touch them while the result lives.
    #[inline(always)]
    pub unsafe fn block_mut(self, block: u32, head: usize) -> (&'a mut [[u16; LANES]], &'a mut [u16]) {
        let (index, layout) = (self.index(block, head), self.layout);
        let (keys, values) = (layout.key_block(), layout.value_block());
        // SAFETY: `index` is below the number of blocks that were allocated; the caller keeps everybody else away.
        unsafe {
            let keys = std::slice::from_raw_parts_mut(self.keys.add(index * keys), keys);
            (keys.as_chunks_mut().0, std::slice::from_raw_parts_mut(self.values.add(index * values), values))
        }
    }
}
