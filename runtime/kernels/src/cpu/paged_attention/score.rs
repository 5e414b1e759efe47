//! Scores: sixteen keys at a time, for up to eight queries side by side.
#![allow(unsafe_code)]

use super::PagedAttentionTask;
use crate::cpu::kv_element::KvElement;
use crate::cpu::lanes::{LANES, Lanes};

/// Partial sums of a score, so that one does not wait for the other.
const PARTS: usize = 2;

impl<E: KvElement> PagedAttentionTask<'_, E> {
    /// Scores of a chunk's tiles for every query.
    #[inline(always)]
    pub(super) fn score<L: Lanes>(&mut self, lanes: L, chunk: usize, num_queries: usize) {
        let head_dim = self.cache.layout.head_dim;
        let tiles = self.tiles(chunk);
        for tile in tiles {
            // SAFETY: nothing is appended while attention runs.
            let (keys, _) = unsafe { self.cache.block(tile.block, self.kv_head) };
            let keys = &keys[tile.index * head_dim..(tile.index + 1) * head_dim];
            if num_queries <= 8 {
                self.score_tile(lanes, keys, tile.place, num_queries);
                continue;
            }
            let mut converted = std::mem::take(&mut self.scratch.keys);
            for (converted, key) in converted.iter_mut().zip(keys) {
                lanes.store(E::load(lanes, key), converted);
            }
            self.score_tile(lanes, &converted[..head_dim], tile.place, num_queries);
            self.scratch.keys = converted;
        }
    }

    #[inline(always)]
    fn score_tile<L: Lanes, K: KvElement>(&mut self, lanes: L, keys: &[[K; LANES]], place: usize, num_queries: usize) {
        let mut first = 0;
        while first < num_queries {
            first += match num_queries - first {
                8.. => self.score_queries::<L, K, 8>(lanes, keys, (first, place)),
                4..8 => self.score_queries::<L, K, 4>(lanes, keys, (first, place)),
                3 => self.score_queries::<L, K, 3>(lanes, keys, (first, place)),
                2 => self.score_queries::<L, K, 2>(lanes, keys, (first, place)),
                _ => self.score_queries::<L, K, 1>(lanes, keys, (first, place)),
            };
        }
    }

    /// Sixteen scores for `R` queries from the given one on, into the given tile: `[head_dim, 16]` keys times
    /// `[head_dim]`. Returns `R`.
    #[inline(always)]
    fn score_queries<L: Lanes, K: KvElement, const R: usize>(
        &mut self,
        lanes: L,
        keys: &[[K; LANES]],
        (first, place): (usize, usize),
    ) -> usize {
        let head_dim = keys.len();
        let mut queries: [&[f32]; R] = [&[]; R];
        for (r, query) in queries.iter_mut().enumerate() {
            let (row, head) = self.row_and_head(first + r);
            // SAFETY: queries are only read.
            *query = &unsafe { self.query.rows(row..row + 1) }[head * head_dim..(head + 1) * head_dim];
        }
        let mut sums = [[lanes.splat(0.0); PARTS]; R];
        let (groups, rest) = keys.as_chunks::<PARTS>();
        for (group, keys) in groups.iter().enumerate() {
            for (part, key) in keys.iter().enumerate() {
                let key = K::load(lanes, key);
                for r in 0..R {
                    sums[r][part] = lanes.fma(key, lanes.splat(queries[r][group * PARTS + part]), sums[r][part]);
                }
            }
        }
        for (part, key) in rest.iter().enumerate() {
            let key = K::load(lanes, key);
            for r in 0..R {
                sums[r][part] = lanes.fma(key, lanes.splat(queries[r][groups.len() * PARTS + part]), sums[r][part]);
            }
        }
        let layout = self.cache.layout;
        let tiles_per_chunk = layout.blocks_per_chunk() * layout.tiles_per_block();
        let scale = lanes.splat(self.scales[0]);
        for (r, [even, odd]) in sums.iter().enumerate() {
            let scores = &mut self.scratch.scores[(first + r) * tiles_per_chunk + place];
            lanes.store(lanes.mul(lanes.add(*even, *odd), scale), scores);
        }
        R
    }
}
