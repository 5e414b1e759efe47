//! Where keys and values lie: f16 or E4M3 in paged blocks, laid out for the attention kernel.
//!
//! A block of one layer and head holds its keys in tiles of sixteen positions, `[head_dim, 16]`, so that sixteen scores
//! are computed side by side; and its values as rows, `[block_size, padded_head_dim]`.
#![allow(unsafe_code)]

use std::marker::PhantomData;

use super::kv_element::KvElement;
use super::lanes::LANES;
use crate::resident::Extent;
use crate::room::Room;
use crate::{CacheGroupSpec, KvType, PrepareError};

/// Keys and values of one cache group.
pub(super) enum KvCache {
    /// f16.
    Wide(KvBlocks<u16>),
    /// E4M3.
    E4M3(KvBlocks<u8>),
}

/// `body` with the blocks of whichever element type it is.
macro_rules! with_cache {
    ($cache:expr, $blocks:ident => $body:expr) => {
        match $cache {
            $crate::cpu::kv_cache::KvCache::Wide($blocks) => $body,
            $crate::cpu::kv_cache::KvCache::E4M3($blocks) => $body,
        }
    };
}
pub(super) use with_cache;

impl KvCache {
    /// Zeroed blocks for every layer of `spec`.
    pub fn new(
        spec: &CacheGroupSpec,
        kv_type: KvType,
        block_size: usize,
        num_blocks: usize,
        room: &Room,
    ) -> Result<Self, PrepareError> {
        Ok(match kv_type {
            KvType::Wide => Self::Wide(KvBlocks::new(spec, (block_size, num_blocks), room)?),
            KvType::F8E4M3 => Self::E4M3(KvBlocks::new(spec, (block_size, num_blocks), room)?),
        })
    }

    /// Where keys and values lie.
    pub fn extents(&self) -> [Extent; 2] {
        with_cache!(self, blocks => [Extent::of(&blocks.keys), Extent::of(&blocks.values)])
    }

    /// Sizes.
    pub fn layout(&self) -> KvLayout {
        with_cache!(self, blocks => blocks.layout)
    }
}

/// Blocks of one element type.
pub(super) struct KvBlocks<E> {
    layout: KvLayout,
    keys: Vec<E>,
    values: Vec<E>,
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

/// Positions that attention goes through before it rescales, unless a block has more.
const CHUNK_POSITIONS: usize = 128;

impl KvLayout {
    /// Tiles of sixteen positions per block.
    pub fn tiles_per_block(&self) -> usize {
        self.block_size.div_ceil(LANES)
    }

    /// Elements of one row of values.
    pub fn value_row(&self) -> usize {
        self.head_dim.next_multiple_of(LANES)
    }

    /// Blocks that attention takes as one chunk.
    pub fn blocks_per_chunk(&self) -> usize {
        (CHUNK_POSITIONS / self.block_size).max(1)
    }

    /// Positions of a chunk.
    pub fn chunk_positions(&self) -> usize {
        self.blocks_per_chunk() * self.block_size
    }

    fn key_block(&self) -> usize {
        self.tiles_per_block() * self.head_dim * LANES
    }

    fn value_block(&self) -> usize {
        self.block_size * self.value_row()
    }
}

impl<E: KvElement> KvBlocks<E> {
    fn new(spec: &CacheGroupSpec, (block_size, num_blocks): (usize, usize), room: &Room) -> Result<Self, PrepareError> {
        let (num_kv_heads, head_dim) = (spec.num_kv_heads, spec.head_dim);
        let layout = KvLayout { block_size, num_blocks, num_kv_heads, head_dim };
        let padded = block_size.checked_add(LANES).and_then(|size| size.checked_mul(spec.head_dim + LANES));
        let blocks = [spec.num_layers, num_blocks, spec.num_kv_heads]
            .iter()
            .try_fold(1usize, |product, size| product.checked_mul(*size));
        let fits = blocks.zip(padded).and_then(|(blocks, padded)| blocks.checked_mul(padded));
        let count = |block: fn(&KvLayout) -> usize| fits.and(blocks).map(|blocks| blocks * block(&layout));
        Ok(Self {
            keys: room.zeroes(count(KvLayout::key_block), "the KV cache")?,
            values: room.zeroes(count(KvLayout::value_block), "the KV cache")?,
            layout,
        })
    }

    /// A view for the tasks of one op on one layer.
    pub fn layer(&mut self, layer: usize) -> KvLayer<'_, E> {
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
pub(super) struct KvLayer<'a, E> {
    keys: *mut E,
    values: *mut E,
    /// Sizes.
    pub layout: KvLayout,
    layer: usize,
    memory: PhantomData<&'a mut [E]>,
}

// SAFETY: a view is two pointers; every access through it is unsafe and says who else may touch the elements.
unsafe impl<E: KvElement> Send for KvLayer<'_, E> {}
// SAFETY: as above.
unsafe impl<E: KvElement> Sync for KvLayer<'_, E> {}

impl<'a, E: KvElement> KvLayer<'a, E> {
    #[inline(always)]
    fn index(&self, block: u32, head: usize) -> usize {
        let layout = &self.layout;
        assert!((block as usize) < layout.num_blocks && head < layout.num_kv_heads, "block {block}, head {head}");
        (self.layer * layout.num_blocks + block as usize) * layout.num_kv_heads + head
    }

    /// What products with loaded keys and sums of loaded values have to be multiplied with; `scales` are the
    /// checkpoint's.
    pub fn factors(&self, scales: [f32; 2]) -> [f32; 2] {
        scales.map(|scale| if E::SCALED { scale * E::FACTOR } else { E::FACTOR })
    }

    /// Keys, `[tiles, head_dim, 16]`, and values, `[block_size, value_row]`, of one block and head.
    ///
    /// # Safety
    /// Nobody may write them while the result lives.
    #[inline(always)]
    pub unsafe fn block(self, block: u32, head: usize) -> (&'a [[E; LANES]], &'a [E]) {
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
    pub unsafe fn block_mut(self, block: u32, head: usize) -> (&'a mut [[E; LANES]], &'a mut [E]) {
        let (index, layout) = (self.index(block, head), self.layout);
        let (keys, values) = (layout.key_block(), layout.value_block());
        // SAFETY: `index` is below the number of blocks that were allocated; the caller keeps everybody else away.
        unsafe {
            let keys = std::slice::from_raw_parts_mut(self.keys.add(index * keys), keys);
            (keys.as_chunks_mut().0, std::slice::from_raw_parts_mut(self.values.add(index * values), values))
        }
    }
}
