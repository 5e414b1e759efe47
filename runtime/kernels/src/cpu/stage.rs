//! Runs one stage: cuts it into tasks and hands them to the threads. Small stages run where they are.
use std::ops::Range;
use std::sync::PoisonError;

use super::add::AddTask;
use super::embed_tokens::embed_token;
use super::fuse::Stage;
use super::gated_activation::GatedActivationTask;
use super::gather_logit_rows::gather_logit_rows;
use super::kv_cache_append::KvCacheAppendTask;
use super::model::{CpuModel, TokenPlace};
use super::paged_attention::{MAX_HEADS, PagedAttentionTask};
use super::pool::Pool;
use super::rms_norm::RmsNormTask;
use super::rotary::RotaryTask;
use crate::{CacheGroupId, CacheGroupKind, Op, Step};

/// Rows that a task of a cheap op takes; fewer are not worth a meeting of the threads.
const ROWS_PER_TASK: usize = 8;

impl CpuModel {
    /// Computes `self.stages[index]` for a validated step.
    pub fn execute_stage(&mut self, index: usize, step: &Step, places: &[TokenPlace]) {
        match &self.stages[index] {
            Stage::Linear { .. } => self.execute_linear(index, step),
            Stage::Op(op @ Op::PagedAttention { .. }) => {
                let op = op.clone();
                self.execute_attention(&op, step, places);
            }
            Stage::Op(op) => {
                let op = op.clone();
                self.execute_op(&op, step);
            }
        }
    }

    fn execute_op(&mut self, op: &Op, step: &Step) {
        let (isa, pool) = (self.isa, &mut self.pool);
        let view = self.buffers.views(step);
        match *op {
            Op::EmbedTokens { weight, output } => {
                let (weight, output) = (self.weights.matrix(weight), view(output));
                by_rows(pool, output.num_rows, |rows| {
                    rows.for_each(|row| embed_token(weight, step.token_ids[row], output, row));
                });
            }
            Op::RmsNorm { input, weight: Some(weight), eps, output, .. } => {
                let (input, output, weight) = (view(input), view(output), self.weights.vector(weight));
                by_rows(pool, input.num_rows, |rows| isa.run(RmsNormTask { input, weight, eps, output, rows }));
            }
            Op::Rotary { buffer, num_heads: _, head_dim, table } => {
                let (buffer, angles) = (view(buffer), &self.rotaries[table.0]);
                by_rows(pool, buffer.num_rows, |rows| isa.run(RotaryTask { buffer, head_dim, angles, rows }));
            }
            Op::KvCacheAppend { key, value, group, layer, kv_scales: _ } => {
                let (key, value, cache) = (view(key), view(value), self.caches[group.0].layer(layer));
                let task = |head| isa.run(KvCacheAppendTask { cache, key, value, step, group, head });
                let num_heads = cache.layout.num_kv_heads;
                if key.num_rows < ROWS_PER_TASK {
                    (0..num_heads).for_each(task);
                } else {
                    pool.run(num_heads, &|head, _| task(head));
                }
            }
            Op::GatedActivation { gate, up, activation, output } => {
                let (gate, up, output) = (view(gate), view(up), view(output));
                by_rows(pool, gate.num_rows, |rows| {
                    isa.run(GatedActivationTask { gate, up, output, activation, rows })
                });
            }
            Op::Add { input, output } => {
                let (input, output) = (view(input), view(output));
                by_rows(pool, input.num_rows, |rows| isa.run(AddTask { input, output, rows }));
            }
            Op::GatherLogitRows { input, output } => {
                gather_logit_rows(view(input), &step.logit_indices, view(output));
            }
            Op::PagedAttention { .. } | Op::Linear { .. } => unreachable!("execute_stage should have seen to it"),
            Op::RmsNorm { .. }
            | Op::Scale { .. }
            | Op::SoftCap { .. }
            | Op::SigmoidGateRows { .. }
            | Op::MoeRoute { .. }
            | Op::MoeExperts { .. }
            | Op::CausalConv { .. }
            | Op::GatedDeltaRule { .. } => unreachable!("prepare should have refused {}", op.name()),
        }
    }

    fn execute_attention(&mut self, op: &Op, step: &Step, places: &[TokenPlace]) {
        let Op::PagedAttention { query, output, num_heads, scale, group, layer, .. } = *op else { return };
        let kind = self.plan.cache_groups[group.0].kind;
        let views = self.buffers.views(step);
        let (query, output) = (views(query), views(output));
        let cache = self.caches[group.0].layer(layer);
        let heads_per_kv_head = num_heads / cache.layout.num_kv_heads;
        let few = places.len() * cache.layout.num_kv_heads < 4 * self.pool.num_threads();
        let heads_per_task = if few { 1 } else { heads_per_kv_head.min(MAX_HEADS) };
        let tasks_per_kv_head = heads_per_kv_head.div_ceil(heads_per_task);
        let tasks_per_token = cache.layout.num_kv_heads * tasks_per_kv_head;
        let (isa, scratch) = (self.isa, &self.scratch);
        self.pool.run(places.len() * tasks_per_token, &|index, thread| {
            let (row, part) = (index / tasks_per_token, index % tasks_per_token);
            let (kv_head, part) = (part / tasks_per_kv_head, part % tasks_per_kv_head);
            let TokenPlace { sequence, position } = places[row];
            let first_head = kv_head * heads_per_kv_head + part * heads_per_task;
            let mut scratch = scratch[thread].lock().unwrap_or_else(PoisonError::into_inner);
            isa.run(PagedAttentionTask {
                query,
                output,
                cache,
                block_table: block_table(step, sequence, group),
                row,
                positions: first_position(kind, position)..position + 1,
                heads: first_head..(first_head + heads_per_task).min((kv_head + 1) * heads_per_kv_head),
                kv_head,
                scale,
                scratch: &mut scratch,
            });
        });
    }
}

/// Calls `task` with ranges that cover all rows; in this thread alone if they are few.
pub(super) fn by_rows(pool: &mut Pool, num_rows: usize, task: impl Fn(Range<usize>) + Sync) {
    let num_tasks = num_rows.div_ceil(ROWS_PER_TASK);
    pool.run(num_tasks, &|index, _| {
        task(index * ROWS_PER_TASK..num_rows.min((index + 1) * ROWS_PER_TASK));
    });
}

fn block_table(step: &Step, sequence: usize, group: CacheGroupId) -> &[u32] {
    &step.sequences[sequence].block_tables[group.0]
}

fn first_position(kind: CacheGroupKind, position: usize) -> usize {
    match kind {
        CacheGroupKind::Full | CacheGroupKind::Recurrent { .. } => 0,
        CacheGroupKind::Window { window } => (position + 1).saturating_sub(window),
    }
}
