//! Causal softmax attention over the paged cache.
//!
//! One task is some tokens of a sequence that follow each other, one key head and the query heads that share it: a tile
//! of keys meets many queries. Positions are gone through in chunks that lie where the block size puts them; a chunk's
//! scores, their exponentials and weighted values are computed for themselves, then added to what came before. A query's
//! result is so a matter of its own positions: not of the tokens beside it, the cut of its prompt into steps, nor of who
//! computed which chunk.
#![allow(unsafe_code)]

mod score;
mod softmax;
mod weigh;

use std::ops::Range;

use super::isa::Kernel;
use super::kv_cache::{KvLayer, KvLayout};
use super::kv_element::KvElement;
use super::lanes::{LANES, Lanes};
use super::rows::RowsView;
use crate::PrepareError;
use crate::resident::Extent;
use crate::room::Room;
pub(super) use softmax::{Merged, PartsView};

/// Queries (tokens times heads) of a task.
pub(super) const MAX_QUERIES: usize = 32;

/// Some tokens of a sequence and some query heads of one key head.
pub(super) struct PagedAttentionTask<'a, E> {
    /// `[num_tokens, num_heads * head_dim]`.
    pub query: RowsView<'a>,
    /// Same shape, another buffer.
    pub output: RowsView<'a>,
    /// Keys and values.
    pub cache: KvLayer<'a, E>,
    /// Blocks of the tokens' sequence.
    pub block_table: &'a [u32],
    /// Rows of the tokens in `query` and `output`.
    pub rows: Range<usize>,
    /// Position of the first token.
    pub position: usize,
    /// Positions that a token sees, itself included, if not all before it.
    pub window: Option<usize>,
    /// Query heads, all of one key head; times `rows` at most [`MAX_QUERIES`].
    pub heads: Range<usize>,
    /// The key head.
    pub kv_head: usize,
    /// Multiplies scores and results.
    pub scales: [f32; 2],
    /// One more score per query head.
    pub sinks: Option<&'a [f32]>,
    /// `None`: all chunks, and the results. Else only these, and what is to be merged of each goes there.
    pub parts: Option<(Range<usize>, PartsView<'a>)>,
    /// Room to work.
    pub scratch: &'a mut Scratch,
}

/// What a thread needs for a task.
pub(super) struct Scratch {
    /// A tile of keys in f32, `[head_dim]`.
    keys: Vec<[f32; LANES]>,
    /// Scores, then their exponentials: `[MAX_QUERIES, tiles of a chunk]`.
    scores: Vec<[f32; LANES]>,
    /// Weighted values so far, `[MAX_QUERIES, head_dim / 16]`.
    sums: Vec<[f32; LANES]>,
}

impl Scratch {
    /// Room for every group of `layouts`.
    pub fn new(layouts: impl Iterator<Item = KvLayout> + Clone, room: &Room) -> Result<Self, PrepareError> {
        let most = |size: fn(&KvLayout) -> usize| Some(layouts.clone().map(|layout| size(&layout)).max().unwrap_or(0));
        let times = |count: Option<usize>| count.and_then(|count| count.checked_mul(MAX_QUERIES));
        const WHAT: &str = "attention scores";
        Ok(Self {
            keys: room.zeroes(most(|layout| layout.head_dim), WHAT)?,
            scores: room.zeroes(times(most(|layout| layout.blocks_per_chunk() * layout.tiles_per_block())), WHAT)?,
            sums: room.zeroes(times(most(|layout| layout.value_row() / LANES)), WHAT)?,
        })
    }

    /// Where it lies.
    pub fn extents(&self) -> [Extent; 3] {
        [&self.keys, &self.scores, &self.sums].map(|part| Extent::of(part))
    }
}

/// A tile with some position that a query wants.
struct Tile {
    /// Block id.
    block: u32,
    /// Tile within the block.
    index: usize,
    /// Tile within the chunk.
    place: usize,
    /// Its first position.
    first: usize,
    /// Its positions.
    len: usize,
}

impl Tile {
    /// The lanes that hold some of `positions`: from and to.
    #[inline(always)]
    fn wanted(&self, positions: &Range<usize>) -> (usize, usize) {
        let end = positions.end.saturating_sub(self.first).min(self.len);
        (positions.start.saturating_sub(self.first).min(end), end)
    }
}

impl<E: KvElement> Kernel for PagedAttentionTask<'_, E> {
    #[inline(always)]
    fn run<L: Lanes>(mut self, lanes: L) {
        let num_queries = self.rows.len() * self.heads.len();
        assert!(num_queries <= MAX_QUERIES, "{num_queries} queries in one task");
        let last = self.position + self.rows.len() - 1;
        let chunk_positions = self.cache.layout.chunk_positions();
        let all = self.first_position(0) / chunk_positions..last / chunk_positions + 1;
        let mut merged = [Merged::default(); MAX_QUERIES];
        self.clear(num_queries);
        match self.parts.take() {
            None => {
                for chunk in all {
                    self.add_chunk(lanes, chunk, &mut merged[..num_queries]);
                }
                self.finish(lanes, &merged[..num_queries]);
            }
            Some((chunks, parts)) => {
                for chunk in chunks {
                    merged = [Merged::default(); MAX_QUERIES];
                    self.clear(num_queries);
                    self.add_chunk(lanes, chunk, &mut merged[..num_queries]);
                    for (index, merged) in merged[..num_queries].iter().enumerate() {
                        let (row, head) = self.row_and_head(index);
                        // SAFETY: the part of this query and chunk belongs to this task alone.
                        unsafe { parts.store((row, head), chunk, (merged, self.sums_of(index))) };
                    }
                }
            }
        }
    }
}

impl<'a, E: KvElement> PagedAttentionTask<'a, E> {
    /// Row and head of a query: heads of a token follow each other.
    #[inline(always)]
    fn row_and_head(&self, query: usize) -> (usize, usize) {
        (self.rows.start + query / self.heads.len(), self.heads.start + query % self.heads.len())
    }

    /// The first position that a token sees.
    #[inline(always)]
    fn first_position(&self, token: usize) -> usize {
        first_position(self.window, self.position + token)
    }

    /// Positions that a query sees.
    #[inline(always)]
    fn positions(&self, query: usize) -> Range<usize> {
        let token = query / self.heads.len();
        self.first_position(token)..self.position + token + 1
    }

    #[inline(always)]
    fn vectors(&self) -> usize {
        self.cache.layout.value_row() / LANES
    }

    #[inline(always)]
    fn clear(&mut self, num_queries: usize) {
        let count = num_queries * self.vectors();
        self.scratch.sums[..count].fill([0.0; LANES]);
    }

    #[inline(always)]
    fn sums_of(&self, query: usize) -> &[[f32; LANES]] {
        &self.scratch.sums[query * self.vectors()..(query + 1) * self.vectors()]
    }

    /// Tiles of a chunk that some query wants, in order of position.
    #[inline(always)]
    fn tiles(&self, chunk: usize) -> impl Iterator<Item = Tile> + Clone + use<'a, E> {
        let layout = self.cache.layout;
        let (block_size, table) = (layout.block_size, self.block_table);
        let (tiles_per_block, first_block) = (layout.tiles_per_block(), chunk * layout.blocks_per_chunk());
        let wanted = self.first_position(0)..self.position + self.rows.len();
        let blocks = first_block.max(wanted.start / block_size)
            ..(first_block + layout.blocks_per_chunk()).min((wanted.end - 1) / block_size + 1);
        blocks.flat_map(move |block| {
            let wanted = wanted.clone();
            (0..tiles_per_block).filter_map(move |index| {
                let first = block * block_size + index * LANES;
                let len = LANES.min(block_size - index * LANES);
                let place = (block - first_block) * tiles_per_block + index;
                (first < wanted.end && wanted.start < first + len).then(|| Tile {
                    block: table[block],
                    index,
                    place,
                    first,
                    len,
                })
            })
        })
    }

    #[inline(always)]
    fn add_chunk<L: Lanes>(&mut self, lanes: L, chunk: usize, merged: &mut [Merged]) {
        self.score(lanes, chunk, merged.len());
        let mut factors = [[0.0; 2]; MAX_QUERIES];
        for (query, merged) in merged.iter_mut().enumerate() {
            factors[query] = self.exponentiate(lanes, chunk, (query, merged));
        }
        self.weigh(lanes, chunk, &factors[..merged.len()]);
    }

    /// Divides the sums by the totals and writes the results.
    #[inline(always)]
    fn finish<L: Lanes>(&self, lanes: L, merged: &[Merged]) {
        for (query, merged) in merged.iter().enumerate() {
            let (row, head) = self.row_and_head(query);
            let sink = self.sinks.map(|sinks| sinks[head]);
            let out = ResultPlace { output: self.output, row, head, head_dim: self.cache.layout.head_dim };
            out.store(lanes, (merged, self.sums_of(query)), (sink, self.scales[1]));
        }
    }
}

/// The first position that the token at `position` sees.
pub(super) fn first_position(window: Option<usize>, position: usize) -> usize {
    window.map_or(0, |window| (position + 1).saturating_sub(window))
}

/// Where the result of one query goes.
struct ResultPlace<'a> {
    output: RowsView<'a>,
    row: usize,
    head: usize,
    head_dim: usize,
}

impl ResultPlace<'_> {
    #[inline(always)]
    fn store<L: Lanes>(&self, lanes: L, (merged, sums): (&Merged, &[[f32; LANES]]), (sink, scale): (Option<f32>, f32)) {
        let factor = lanes.splat(merged.result_factor(lanes, sink) * scale);
        for (vector, sum) in sums.iter().enumerate() {
            let mut values = [0.0; LANES];
            lanes.store(lanes.mul(lanes.load(sum), factor), &mut values);
            let first = vector * LANES;
            let values = &values[..LANES.min(self.head_dim - first)];
            let start = self.head * self.head_dim + first;
            // SAFETY: this row's head belongs to this task alone.
            unsafe { self.output.part_mut(self.row, start..start + values.len()) }.copy_from_slice(values);
        }
    }
}

/// Merges the parts of one query, in order of chunk, and writes its result.
pub(super) struct MergePartsTask<'a> {
    /// The parts.
    pub parts: PartsView<'a>,
    /// `[num_tokens, num_heads * head_dim]`.
    pub output: RowsView<'a>,
    /// Row and head of the query.
    pub query: (usize, usize),
    /// Its chunks.
    pub chunks: Range<usize>,
    /// One more score.
    pub sink: Option<f32>,
    /// Multiplies the result.
    pub scale: f32,
    /// Elements of a head.
    pub head_dim: usize,
    /// Room to work.
    pub scratch: &'a mut Scratch,
}

impl Kernel for MergePartsTask<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let sums = &mut self.scratch.sums[..self.head_dim.div_ceil(LANES)];
        sums.fill([0.0; LANES]);
        let mut merged = Merged::default();
        for chunk in self.chunks {
            // SAFETY: all parts are written, nobody writes any more.
            let (part, part_sums) = unsafe { self.parts.load(self.query, chunk) };
            let [old, new] = merged.add(lanes, &part);
            for (sum, part) in sums.iter_mut().zip(part_sums) {
                softmax::merge_sums(lanes, sum, lanes.load(part), [old, new]);
            }
        }
        let (row, head) = self.query;
        let place = ResultPlace { output: self.output, row, head, head_dim: self.head_dim };
        place.store(lanes, (&merged, sums), (self.sink, self.scale));
    }
}
