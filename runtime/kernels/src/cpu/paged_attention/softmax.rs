//! Softmax in parts: the highest score and the sum of exponentials so far, and how a chunk is added.
#![allow(unsafe_code)]

use std::marker::PhantomData;

use super::PagedAttentionTask;
use crate::cpu::kv_element::KvElement;
use crate::cpu::lanes::{LANES, Lanes};

/// What is known of a query's softmax after some chunks.
#[derive(Debug, Clone, Copy)]
pub(in crate::cpu) struct Merged {
    /// Minus infinity before the first.
    highest: f32,
    /// Sum of `exp(score - highest)`.
    total: f32,
}

impl Default for Merged {
    fn default() -> Self {
        Self { highest: f32::NEG_INFINITY, total: 0.0 }
    }
}

#[inline(always)]
fn exp<L: Lanes>(lanes: L, value: f32) -> f32 {
    let mut out = [0.0; LANES];
    lanes.store(lanes.exp(lanes.splat(value)), &mut out);
    out[0]
}

impl Merged {
    /// Adds a chunk; what the weighted values before it and its own are multiplied with.
    #[inline(always)]
    pub fn add<L: Lanes>(&mut self, lanes: L, chunk: &Self) -> [f32; 2] {
        if chunk.total == 0.0 {
            return [1.0, 0.0];
        }
        if self.total == 0.0 {
            *self = *chunk;
            return [0.0, 1.0];
        }
        let highest = if chunk.highest > self.highest { chunk.highest } else { self.highest };
        let factors = [exp(lanes, self.highest - highest), exp(lanes, chunk.highest - highest)];
        *self = Self { highest, total: self.total * factors[0] + chunk.total * factors[1] };
        factors
    }

    /// What the weighted values are multiplied with in the end; `sink` is a score without a value.
    #[inline(always)]
    pub fn result_factor<L: Lanes>(&self, lanes: L, sink: Option<f32>) -> f32 {
        let Some(sink) = sink else { return 1.0 / self.total };
        let highest = if sink > self.highest { sink } else { self.highest };
        let own = exp(lanes, self.highest - highest);
        own / (self.total * own + exp(lanes, sink - highest))
    }
}

/// `sum = sum * factors[0] + chunk * factors[1]`.
#[inline(always)]
pub(super) fn merge_sums<L: Lanes>(lanes: L, sum: &mut [f32; LANES], chunk: L::Floats, factors: [f32; 2]) {
    let old = lanes.mul(lanes.load(sum), lanes.splat(factors[0]));
    lanes.store(lanes.fma(chunk, lanes.splat(factors[1]), old), sum);
}

impl<E: KvElement> PagedAttentionTask<'_, E> {
    /// Replaces a query's scores of a chunk by `exp(score - highest)`, zero where it wants none, and adds the chunk to
    /// `merged`; what [`Merged::add`] returns.
    #[inline(always)]
    pub(super) fn exponentiate<L: Lanes>(
        &mut self,
        lanes: L,
        chunk: usize,
        (query, merged): (usize, &mut Merged),
    ) -> [f32; 2] {
        let positions = self.positions(query);
        let tiles_per_chunk = self.cache.layout.blocks_per_chunk() * self.cache.layout.tiles_per_block();
        let tiles = self.tiles(chunk);
        let scores = &mut self.scratch.scores[query * tiles_per_chunk..(query + 1) * tiles_per_chunk];
        let mut highest = lanes.splat(f32::NEG_INFINITY);
        for tile in tiles.clone() {
            let (start, end) = tile.wanted(&positions);
            let scores = &mut scores[tile.place];
            if (start, end) != (0, LANES) {
                scores[..start].fill(f32::NEG_INFINITY);
                scores[end..].fill(f32::NEG_INFINITY);
            }
            highest = lanes.max(lanes.load(scores), highest);
        }
        let highest = lanes.highest(highest);
        let (shift, mut totals) = (lanes.splat(-highest), lanes.splat(0.0));
        for tile in tiles {
            let (start, end) = tile.wanted(&positions);
            let scores = &mut scores[tile.place];
            if start == end {
                *scores = [0.0; LANES];
                continue;
            }
            lanes.store(lanes.exp(lanes.add(lanes.load(scores), shift)), scores);
            if (start, end) != (0, LANES) {
                scores[..start].fill(0.0);
                scores[end..].fill(0.0);
            }
            totals = lanes.add(totals, lanes.load(scores));
        }
        merged.add(lanes, &Merged { highest, total: lanes.sum(totals) })
    }
}

/// Parts of queries that several threads write at once, each its own: `[rows, heads, chunks]`.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct PartsView<'a> {
    start: *mut f32,
    len: usize,
    num_heads: usize,
    num_chunks: usize,
    /// Vectors of a head.
    vectors: usize,
    memory: PhantomData<&'a mut [f32]>,
}

// SAFETY: a view is a pointer; every access through it is unsafe and says who else may touch the parts.
unsafe impl Send for PartsView<'_> {}
// SAFETY: as above.
unsafe impl Sync for PartsView<'_> {}

impl<'a> PartsView<'a> {
    /// Elements of one part: its sums, then its highest score and total.
    pub fn part_len(head_dim: usize) -> usize {
        (head_dim.div_ceil(LANES) + 1) * LANES
    }

    /// Parts in `memory`.
    pub fn new(memory: &'a mut [f32], num_heads: usize, num_chunks: usize, head_dim: usize) -> Self {
        let vectors = head_dim.div_ceil(LANES);
        Self { start: memory.as_mut_ptr(), len: memory.len(), num_heads, num_chunks, vectors, memory: PhantomData }
    }

    #[inline(always)]
    fn place(&self, (row, head): (usize, usize), chunk: usize) -> usize {
        assert!(head < self.num_heads && chunk < self.num_chunks, "head {head}, chunk {chunk}");
        let len = (self.vectors + 1) * LANES;
        let place = ((row * self.num_heads + head) * self.num_chunks + chunk) * len;
        assert!(place + len <= self.len, "part of row {row}");
        place
    }

    /// Writes one part.
    ///
    /// # Safety
    /// Nobody else may touch it meanwhile.
    #[inline(always)]
    pub unsafe fn store(self, query: (usize, usize), chunk: usize, (merged, sums): (&Merged, &[[f32; LANES]])) {
        let place = self.place(query, chunk);
        // SAFETY: inside the memory, see `place`; the caller keeps everybody else away.
        let part = unsafe { std::slice::from_raw_parts_mut(self.start.add(place), (self.vectors + 1) * LANES) };
        let (values, last) = part.split_at_mut(self.vectors * LANES);
        values.copy_from_slice(sums.as_flattened());
        (last[0], last[1]) = (merged.highest, merged.total);
    }

    /// Reads one part.
    ///
    /// # Safety
    /// It must have been written, and nobody may write it while the result lives.
    #[inline(always)]
    pub unsafe fn load(self, query: (usize, usize), chunk: usize) -> (Merged, &'a [[f32; LANES]]) {
        let place = self.place(query, chunk);
        // SAFETY: inside the memory, see `place`; the caller keeps writers away.
        let part = unsafe { std::slice::from_raw_parts(self.start.add(place), (self.vectors + 1) * LANES) };
        let (values, last) = part.split_at(self.vectors * LANES);
        (Merged { highest: last[0], total: last[1] }, values.as_chunks().0)
    }
}
