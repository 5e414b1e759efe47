//! Causal softmax attention over the paged cache.
//!
//! One task is one token, one key head and up to four of the query heads that share it. Positions are gone through in
//! order, in tiles of sixteen that lie where the block size puts them, so that a token's result does not depend on how
//! its prompt was cut into steps.
#![allow(unsafe_code)]

use std::ops::Range;

use super::isa::Kernel;
use super::kv_cache::KvLayer;
use super::lanes::{LANES, Lanes};
use super::rows::RowsView;
use crate::Limits;

/// Query heads that a task can take.
pub(super) const MAX_HEADS: usize = 4;

/// Partial sums of a score, so that one does not wait for the other.
const PARTS: usize = 4;

/// One token and some of its heads.
pub(super) struct PagedAttentionTask<'a> {
    /// `[num_tokens, num_heads * head_dim]`.
    pub query: RowsView<'a>,
    /// Same shape, another buffer.
    pub output: RowsView<'a>,
    /// Keys and values.
    pub cache: KvLayer<'a>,
    /// Blocks of the token's sequence.
    pub block_table: &'a [u32],
    /// Row of the token in `query` and `output`.
    pub row: usize,
    /// Positions to attend to; the last is the token's own.
    pub positions: Range<usize>,
    /// Query heads, at most [`MAX_HEADS`], all of one key head.
    pub heads: Range<usize>,
    /// The key head.
    pub kv_head: usize,
    /// Multiplies the scores.
    pub scale: f32,
    /// At least `scratch_tiles(..)` long.
    pub scratch: &'a mut [ScoreTile],
}

/// Scores of one tile for each head of a task.
pub(super) type ScoreTile = [[f32; LANES]; MAX_HEADS];

/// Tiles that a task may need: all of every block that `max_context` touches.
pub(super) fn scratch_tiles(limits: &Limits) -> Option<usize> {
    limits.max_context.div_ceil(limits.block_size).checked_mul(limits.block_size.div_ceil(LANES))
}

impl Kernel for PagedAttentionTask<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        match self.heads.len() {
            1 => self.attend::<L, 1>(lanes),
            2 => self.attend::<L, 2>(lanes),
            3 => self.attend::<L, 3>(lanes),
            4 => self.attend::<L, 4>(lanes),
            number => unreachable!("{number} heads in one task"),
        }
    }
}

/// A tile with some wanted position.
struct Tile {
    /// Block id.
    block: u32,
    /// Tile within the block.
    index: usize,
    /// Wanted lanes.
    lanes: Range<usize>,
}

impl PagedAttentionTask<'_> {
    /// The tiles from the first position to the last, in order.
    #[inline(always)]
    fn tiles(&self) -> impl Iterator<Item = Tile> {
        let (block_size, positions, table) = (self.cache.layout.block_size, self.positions.clone(), self.block_table);
        let tiles_per_block = self.cache.layout.tiles_per_block();
        (positions.start / block_size..=(positions.end - 1) / block_size).flat_map(move |block| {
            let positions = positions.clone();
            (0..tiles_per_block).filter_map(move |index| {
                let first = block * block_size + index * LANES;
                let len = LANES.min(block_size - index * LANES);
                let start = positions.start.saturating_sub(first);
                let end = positions.end.saturating_sub(first).min(len);
                (start < end).then(|| Tile { block: table[block], index, lanes: start..end })
            })
        })
    }

    #[inline(always)]
    fn attend<L: Lanes, const R: usize>(mut self, lanes: L) {
        let scratch = std::mem::take(&mut self.scratch);
        let highest = self.score::<L, R>(lanes, scratch);
        let totals = self.exponentiate::<L, R>(lanes, scratch, highest);
        let head_dim = self.cache.layout.head_dim;
        let mut column = 0;
        while column + 4 * LANES <= head_dim {
            self.weigh::<L, R, 4>(lanes, scratch, (column, totals));
            column += 4 * LANES;
        }
        while column < head_dim {
            self.weigh::<L, R, 1>(lanes, scratch, (column, totals));
            column += LANES;
        }
    }

    /// Scores of every wanted position, and the highest of each head.
    #[inline(always)]
    fn score<L: Lanes, const R: usize>(&self, lanes: L, scratch: &mut [ScoreTile]) -> [f32; R] {
        let head_dim = self.cache.layout.head_dim;
        // SAFETY: queries are only read.
        let query = unsafe { self.query.rows(self.row..self.row + 1) };
        let queries: [&[f32]; R] = std::array::from_fn(|r| {
            let head = self.heads.start + r;
            &query[head * head_dim..(head + 1) * head_dim]
        });
        let scale = lanes.splat(self.scale);
        let mut highest = [lanes.splat(f32::NEG_INFINITY); R];
        for (tile, scores) in self.tiles().zip(scratch) {
            // SAFETY: nothing is appended while attention runs.
            let (keys, _) = unsafe { self.cache.block(tile.block, self.kv_head) };
            let keys = &keys[tile.index * head_dim..(tile.index + 1) * head_dim];
            let sums = score_tile(lanes, keys, queries);
            for r in 0..R {
                lanes.store(lanes.mul(sums[r], scale), &mut scores[r]);
                scores[r][..tile.lanes.start].fill(f32::NEG_INFINITY);
                scores[r][tile.lanes.end..].fill(f32::NEG_INFINITY);
                highest[r] = lanes.max(lanes.load(&scores[r]), highest[r]);
            }
        }
        let mut single = [0.0; R];
        for r in 0..R {
            single[r] = lanes.highest(highest[r]);
        }
        single
    }

    /// Replaces scores by `exp(score - highest)`, zero where unwanted; returns the sums.
    #[inline(always)]
    fn exponentiate<L: Lanes, const R: usize>(
        &self,
        lanes: L,
        scratch: &mut [ScoreTile],
        highest: [f32; R],
    ) -> [f32; R] {
        let mut totals = [lanes.splat(0.0); R];
        for (tile, scores) in self.tiles().zip(scratch) {
            for r in 0..R {
                let shifted = lanes.add(lanes.load(&scores[r]), lanes.splat(-highest[r]));
                lanes.store(lanes.exp(shifted), &mut scores[r]);
                scores[r][..tile.lanes.start].fill(0.0);
                scores[r][tile.lanes.end..].fill(0.0);
                totals[r] = lanes.add(totals[r], lanes.load(&scores[r]));
            }
        }
        let mut sums = [0.0; R];
        for r in 0..R {
            sums[r] = lanes.sum(totals[r]);
        }
        sums
    }

    /// `D * 16` columns of the output, from `column` on.
    #[inline(always)]
    fn weigh<L: Lanes, const R: usize, const D: usize>(
        &self,
        lanes: L,
        scratch: &[ScoreTile],
        (column, totals): (usize, [f32; R]),
    ) {
        let (head_dim, value_row) = (self.cache.layout.head_dim, self.cache.layout.value_row());
        let mut sums = [[lanes.splat(0.0); D]; R];
        for (tile, scores) in self.tiles().zip(scratch) {
            // SAFETY: nothing is appended while attention runs.
            let (_, values) = unsafe { self.cache.block(tile.block, self.kv_head) };
            let first = tile.index * LANES;
            let rows = &values[(first + tile.lanes.start) * value_row..(first + tile.lanes.end) * value_row];
            for (lane, row) in tile.lanes.clone().zip(rows.chunks_exact(value_row)) {
                let (parts, _) = row[column..column + D * LANES].as_chunks::<LANES>();
                let mut elements = [lanes.splat(0.0); D];
                for d in 0..D {
                    elements[d] = lanes.load_f16(&parts[d]);
                }
                for r in 0..R {
                    let weight = lanes.splat(scores[r][lane & (LANES - 1)]);
                    for d in 0..D {
                        sums[r][d] = lanes.fma(elements[d], weight, sums[r][d]);
                    }
                }
            }
        }
        for r in 0..R {
            let scale = lanes.splat(1.0 / totals[r]);
            for (d, sum) in sums[r].iter().enumerate() {
                let mut values = [0.0; LANES];
                lanes.store(lanes.mul(*sum, scale), &mut values);
                let first = column + d * LANES;
                let values = &values[..LANES.min(head_dim - first)];
                let start = (self.heads.start + r) * head_dim + first;
                // SAFETY: this row's heads belong to this task alone.
                unsafe { self.output.part_mut(self.row, start..start + values.len()) }.copy_from_slice(values);
            }
        }
    }
}

/// Sixteen scores for each query: `[head_dim, 16]` keys times `[head_dim]`.
#[inline(always)]
fn score_tile<L: Lanes, const R: usize>(lanes: L, keys: &[[u16; LANES]], queries: [&[f32]; R]) -> [L::Floats; R] {
    let queries = queries.map(|query| &query[..keys.len()]);
    let mut sums = [[lanes.splat(0.0); PARTS]; R];
    let (groups, rest) = keys.as_chunks::<PARTS>();
    for (group, keys) in groups.iter().enumerate() {
        for (part, key) in keys.iter().enumerate() {
            let key = lanes.load_f16(key);
            for r in 0..R {
                sums[r][part] = lanes.fma(key, lanes.splat(queries[r][group * PARTS + part]), sums[r][part]);
            }
        }
    }
    for (part, key) in rest.iter().enumerate() {
        let key = lanes.load_f16(key);
        for r in 0..R {
            sums[r][part] = lanes.fma(key, lanes.splat(queries[r][groups.len() * PARTS + part]), sums[r][part]);
        }
    }
    let mut scores = [lanes.splat(0.0); R];
    for r in 0..R {
        let [a, b, c, d] = sums[r];
        scores[r] = lanes.add(lanes.add(a, b), lanes.add(c, d));
    }
    scores
}
