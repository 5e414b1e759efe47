//! Cuts attention into tasks: tokens of a sequence together where there are many, chunks of a long context apart where
//! there are few.

use std::ops::Range;
use std::sync::PoisonError;

use super::kv_cache::{KvLayout, with_cache};
use super::model::CpuModel;
use super::paged_attention::{MAX_QUERIES, MergePartsTask, PagedAttentionTask, PartsView, first_position};
use crate::{CacheGroupKind, Limits, Op, Plan, Step, StepSequence};

/// Tasks per thread below which chunks become tasks of their own.
const TASKS_PER_THREAD: usize = 4;

/// What a task computes, but for the head of keys.
#[derive(Debug, Clone, PartialEq)]
struct Cut {
    sequence: usize,
    /// Of the sequence's tokens in this step.
    tokens: Range<usize>,
    /// Query heads, of those that share a head of keys.
    heads: Range<usize>,
    /// Chunks, if they are apart.
    chunks: Option<Range<usize>>,
}

/// The part of a plan's op that all tasks share.
#[derive(Clone, Copy)]
struct Sizes {
    heads_per_kv_head: usize,
    window: Option<usize>,
    chunk_positions: usize,
}

impl Sizes {
    fn new(num_heads: usize, layout: KvLayout, kind: CacheGroupKind) -> Self {
        let window = match kind {
            CacheGroupKind::Window { window } => Some(window),
            CacheGroupKind::Full | CacheGroupKind::Recurrent { .. } => None,
        };
        let heads_per_kv_head = num_heads / layout.num_kv_heads;
        Self { heads_per_kv_head, window, chunk_positions: layout.chunk_positions() }
    }

    /// Chunks that a token sees.
    fn chunks(&self, position: usize) -> Range<usize> {
        first_position(self.window, position) / self.chunk_positions..position / self.chunk_positions + 1
    }
}

/// Whether chunks of `num_tokens` tokens are tasks of their own: there are not enough tasks without.
fn are_apart(num_tokens: usize, num_kv_heads: usize, num_threads: usize) -> bool {
    num_threads > 1 && num_tokens * num_kv_heads < TASKS_PER_THREAD * num_threads
}

/// Cuts a step. The longest tasks come first, so that none is left alone at the end.
fn cut(step: &Step, sizes: Sizes, apart: bool) -> Vec<Cut> {
    let heads_per_task = sizes.heads_per_kv_head.min(MAX_QUERIES);
    let tokens_per_task = MAX_QUERIES / heads_per_task;
    let mut cuts = Vec::new();
    for (sequence, part) in step.sequences.iter().enumerate() {
        for first in (0..part.query_len).step_by(tokens_per_task).rev() {
            let tokens = first..part.query_len.min(first + tokens_per_task);
            for head in (0..sizes.heads_per_kv_head).step_by(heads_per_task) {
                let heads = head..sizes.heads_per_kv_head.min(head + heads_per_task);
                let whole = Cut { sequence, tokens: tokens.clone(), heads, chunks: None };
                if !apart {
                    cuts.push(whole);
                    continue;
                }
                let chunks = sizes.chunks(part.context_len + tokens.start).start
                    ..sizes.chunks(part.context_len + tokens.end - 1).end;
                cuts.extend(chunks.map(|chunk| Cut { chunks: Some(chunk..chunk + 1), ..whole.clone() }));
            }
        }
    }
    cuts
}

/// Elements of the parts of the largest step whose chunks are apart.
pub(super) fn parts_len(plan: &Plan, limits: &Limits) -> Option<usize> {
    let lens = plan.ops.iter().filter_map(|op| match *op {
        Op::PagedAttention { num_heads, group, .. } => Some((num_heads, &plan.cache_groups[group.0])),
        _ => None,
    });
    let mut lens = lens.map(|(num_heads, spec)| {
        let apart = |tokens: &usize| are_apart(*tokens, spec.num_kv_heads, limits.num_threads);
        let num_tokens = (1..=limits.max_tokens_per_step).take_while(apart).last().unwrap_or(0);
        let (block_size, num_kv_heads, head_dim) = (limits.block_size, spec.num_kv_heads, spec.head_dim);
        let layout = KvLayout { block_size, num_blocks: 0, num_kv_heads, head_dim };
        let num_chunks = limits.max_context.div_ceil(layout.chunk_positions());
        num_tokens.checked_mul(num_heads)?.checked_mul(num_chunks)?.checked_mul(PartsView::part_len(head_dim))
    });
    lens.try_fold(0, |most: usize, len| Some(most.max(len?)))
}

impl CpuModel {
    /// Computes [`Op::PagedAttention`] for a validated step.
    pub fn execute_attention(&mut self, op: &Op, step: &Step) {
        let Op::PagedAttention { query, output, num_heads, scale, sinks, group, layer } = *op else { return };
        let views = self.buffers.views(step);
        let (query, output) = (views(query), views(output));
        let sinks = sinks.map(|sinks| self.weights.vector(sinks));
        let layout = self.caches[group.0].layout();
        let sizes = Sizes::new(num_heads, layout, self.plan.cache_groups[group.0].kind);
        let is_long = |part: &StepSequence| sizes.chunks(part.context_len + part.query_len - 1).len() > 1;
        let apart = are_apart(step.token_ids.len(), layout.num_kv_heads, self.pool.num_threads())
            && step.sequences.iter().any(is_long);
        let cuts = cut(step, sizes, apart);
        let num_chunks = self.limits.max_context.div_ceil(layout.chunk_positions());
        let parts = PartsView::new(&mut self.parts, num_heads, num_chunks, layout.head_dim);
        let (isa, scratch) = (self.isa, &self.scratch);
        let scales = self.kv_scales.of(group, layer);
        let value_factor = with_cache!(&mut self.caches[group.0], blocks => {
            let cache = blocks.layer(layer);
            let [key_factor, value_factor] = cache.factors(scales);
            self.pool.run(cuts.len() * layout.num_kv_heads, &|index, thread| {
                let Cut { sequence, tokens, heads, chunks } = cuts[index / layout.num_kv_heads].clone();
                let kv_head = index % layout.num_kv_heads;
                let (part, first_head) = (&step.sequences[sequence], kv_head * sizes.heads_per_kv_head);
                let mut scratch = scratch[thread].lock().unwrap_or_else(PoisonError::into_inner);
                isa.run(PagedAttentionTask {
                    query,
                    output,
                    cache,
                    block_table: &part.block_tables[group.0],
                    rows: part.query_start + tokens.start..part.query_start + tokens.end,
                    position: part.context_len + tokens.start,
                    window: sizes.window,
                    heads: first_head + heads.start..first_head + heads.end,
                    kv_head,
                    scales: [scale * key_factor, value_factor],
                    sinks,
                    parts: chunks.map(|chunks| (chunks, parts)),
                    scratch: &mut scratch,
                });
            });
            value_factor
        });
        if !apart {
            return;
        }
        let tokens = step.sequences.iter().flat_map(|part| {
            (0..part.query_len).map(|token| (part.query_start + token, sizes.chunks(part.context_len + token)))
        });
        let tokens: Vec<_> = tokens.collect();
        self.pool.run(tokens.len() * num_heads, &|index, thread| {
            let ((row, chunks), head) = (tokens[index / num_heads].clone(), index % num_heads);
            let mut scratch = scratch[thread].lock().unwrap_or_else(PoisonError::into_inner);
            let sink = sinks.map(|sinks| sinks[head]);
            let (query, head_dim, scale) = ((row, head), layout.head_dim, value_factor);
            isa.run(MergePartsTask { parts, output, query, chunks, sink, scale, head_dim, scratch: &mut scratch });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::{Sizes, cut};
    use crate::{Step, StepSequence};

    #[test]
    fn every_query_meets_its_chunks_once() {
        let lens = [(1, 300), (70, 0), (3, 500)];
        let mut step = Step::default();
        for (query_len, context_len) in lens {
            let query_start = step.sequences.iter().map(|part| part.query_len).sum();
            step.sequences.push(StepSequence { query_start, query_len, context_len, block_tables: Vec::new() });
        }
        for (heads_per_kv_head, window) in [(1, None), (3, Some(40)), (40, None)] {
            let sizes = Sizes { heads_per_kv_head, window, chunk_positions: 128 };
            for apart in [false, true] {
                let cuts = cut(&step, sizes, apart);
                for (sequence, (query_len, context_len)) in lens.into_iter().enumerate() {
                    for (token, head) in
                        (0..query_len).flat_map(|token| (0..heads_per_kv_head).map(move |h| (token, h)))
                    {
                        let mine: Vec<_> = cuts
                            .iter()
                            .filter(|cut| {
                                cut.sequence == sequence && cut.tokens.contains(&token) && cut.heads.contains(&head)
                            })
                            .collect();
                        assert!(mine.iter().all(|cut| cut.tokens.len() * cut.heads.len() <= super::MAX_QUERIES));
                        if !apart {
                            assert!(mine.len() == 1 && mine[0].chunks.is_none());
                            continue;
                        }
                        for chunk in sizes.chunks(context_len + token) {
                            let has = |cut: &&&super::Cut| cut.chunks.as_ref().is_some_and(|own| own.contains(&chunk));
                            assert_eq!(mine.iter().filter(has).count(), 1);
                        }
                    }
                }
            }
        }
    }
}
