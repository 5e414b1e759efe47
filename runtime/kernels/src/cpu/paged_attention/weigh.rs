//! Weighted values: up to eight queries and 32 elements of a head side by side.
#![allow(unsafe_code)]

use super::PagedAttentionTask;
use super::softmax::merge_sums;
use crate::cpu::kv_element::KvElement;
use crate::cpu::lanes::{LANES, Lanes};

impl<E: KvElement> PagedAttentionTask<'_, E> {
    /// Adds a chunk's weighted values to the sums of every query; `factors` are those of [`merge_sums`].
    #[inline(always)]
    pub(super) fn weigh<L: Lanes>(&mut self, lanes: L, chunk: usize, factors: &[[f32; 2]]) {
        let mut first = 0;
        while first < factors.len() {
            let factors = &factors[first..];
            first += match factors.len() {
                8.. => self.weigh_queries::<L, 8>(lanes, (chunk, first), factors),
                4..8 => self.weigh_queries::<L, 4>(lanes, (chunk, first), factors),
                3 => self.weigh_queries::<L, 3>(lanes, (chunk, first), factors),
                2 => self.weigh_queries::<L, 2>(lanes, (chunk, first), factors),
                _ => self.weigh_queries::<L, 1>(lanes, (chunk, first), factors),
            };
        }
    }

    /// Returns `R`.
    #[inline(always)]
    fn weigh_queries<L: Lanes, const R: usize>(
        &mut self,
        lanes: L,
        place: (usize, usize),
        factors: &[[f32; 2]],
    ) -> usize {
        let vectors = self.vectors();
        let mut vector = 0;
        while vector + 2 <= vectors {
            self.weigh_vectors::<L, R, 2>(lanes, (place, vector), factors);
            vector += 2;
        }
        if vector < vectors {
            self.weigh_vectors::<L, R, 1>(lanes, (place, vector), factors);
        }
        R
    }

    /// `D` vectors of the head from the given one on.
    #[inline(always)]
    fn weigh_vectors<L: Lanes, const R: usize, const D: usize>(
        &mut self,
        lanes: L,
        ((chunk, first), vector): ((usize, usize), usize),
        factors: &[[f32; 2]],
    ) {
        let layout = self.cache.layout;
        let (value_row, vectors) = (layout.value_row(), self.vectors());
        let tiles_per_chunk = layout.blocks_per_chunk() * layout.tiles_per_block();
        // Positions that any of these queries wants.
        let wanted = self.positions(first).start..self.positions(first + R - 1).end;
        let mut sums = [[lanes.splat(0.0); D]; R];
        let tiles = self.tiles(chunk);
        let scores = &self.scratch.scores;
        for tile in tiles {
            let (start, end) = tile.wanted(&wanted);
            // SAFETY: nothing is appended while attention runs.
            let (_, values) = unsafe { self.cache.block(tile.block, self.kv_head) };
            let mut weights = [&[0.0; LANES]; R];
            for (r, weights) in weights.iter_mut().enumerate() {
                *weights = &scores[(first + r) * tiles_per_chunk + tile.place];
            }
            for lane in start..end {
                let row = &values[(tile.index * LANES + lane) * value_row..][..value_row];
                let (parts, _) = row[vector * LANES..(vector + D) * LANES].as_chunks::<LANES>();
                let mut elements = [lanes.splat(0.0); D];
                for d in 0..D {
                    elements[d] = E::load(lanes, &parts[d]);
                }
                for r in 0..R {
                    let weight = lanes.splat(weights[r][lane & (LANES - 1)]);
                    for d in 0..D {
                        sums[r][d] = lanes.fma(elements[d], weight, sums[r][d]);
                    }
                }
            }
        }
        for r in 0..R {
            let place = (first + r) * vectors + vector;
            for (sum, chunk) in self.scratch.sums[place..place + D].iter_mut().zip(sums[r]) {
                merge_sums(lanes, sum, chunk, factors[r]);
            }
        }
    }
}
