//! Runs one stage: cuts it into tasks and hands them to the threads. Small stages run where they are.
use std::ops::Range;

use super::add::AddTask;
use super::embed_tokens::embed_token;
use super::fuse::Stage;
use super::gated_activation::GatedActivationTask;
use super::gather_logit_rows::gather_logit_rows;
use super::kv_cache::with_cache;
use super::kv_cache_append::KvCacheAppendTask;
use super::model::CpuModel;
use super::moe_route::moe_route;
use super::pool::Pool;
use super::rms_norm::RmsNormTask;
use super::rotary::RotaryTask;
use super::scale::ScaleTask;
use super::sigmoid_gate_rows::SigmoidGateRowsTask;
use super::soft_cap::SoftCapTask;
use crate::{Op, Step};

/// Rows that a task of a cheap op takes; fewer are not worth a meeting of the threads.
const ROWS_PER_TASK: usize = 8;

impl CpuModel {
    /// Computes `self.stages[index]` for a validated step.
    pub fn execute_stage(&mut self, index: usize, step: &Step) {
        match &self.stages[index] {
            Stage::Linear { .. } => self.execute_linear(index, step),
            Stage::Op(op @ Op::PagedAttention { .. }) => {
                let op = op.clone();
                self.execute_attention(&op, step);
            }
            Stage::Op(op @ Op::MoeExperts { .. }) => {
                let op = op.clone();
                self.execute_experts(&op, step);
            }
            Stage::Op(
                op @ (Op::Scale { .. } | Op::SoftCap { .. } | Op::SigmoidGateRows { .. } | Op::MoeRoute { .. }),
            ) => {
                let op = op.clone();
                self.execute_small_op(&op, step);
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
            Op::RmsNorm { input, weight, eps, weight_offset, group_width, output } => {
                let (input, output) = (view(input), view(output));
                let weight = weight.map(|weight| self.weights.vector(weight));
                by_rows(pool, input.num_rows, |rows| {
                    isa.run(RmsNormTask { input, weight, eps, weight_offset, group_width, output, rows });
                });
            }
            Op::Rotary { buffer, num_heads: _, head_dim, table } => {
                let (buffer, angles) = (view(buffer), &self.rotaries[table.0]);
                by_rows(pool, buffer.num_rows, |rows| isa.run(RotaryTask { buffer, head_dim, angles, rows }));
            }
            Op::KvCacheAppend { key, value, group, layer, kv_scales: _ } => {
                let (key, value, scales) = (view(key), view(value), self.kv_scales.of(group, layer));
                with_cache!(&mut self.caches[group.0], blocks => {
                    let cache = blocks.layer(layer);
                    let task = |head| isa.run(KvCacheAppendTask { cache, key, value, scales, step, group, head });
                    let num_heads = cache.layout.num_kv_heads;
                    if key.num_rows < ROWS_PER_TASK {
                        (0..num_heads).for_each(task);
                    } else {
                        pool.run(num_heads, &|head, _| task(head));
                    }
                });
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
            Op::PagedAttention { .. }
            | Op::Linear { .. }
            | Op::MoeExperts { .. }
            | Op::Scale { .. }
            | Op::SoftCap { .. }
            | Op::SigmoidGateRows { .. }
            | Op::MoeRoute { .. } => {
                unreachable!("execute_stage should have seen to it")
            }
            Op::CausalConv { .. } | Op::GatedDeltaRule { .. } => {
                unreachable!("prepare should have refused {}", op.name())
            }
        }
    }
}

impl CpuModel {
    fn execute_small_op(&mut self, op: &Op, step: &Step) {
        let (isa, pool) = (self.isa, &mut self.pool);
        let view = self.buffers.views(step);
        match *op {
            Op::Scale { buffer, factor, weight } => {
                let buffer = view(buffer);
                let factor = factor * weight.map_or(1.0, |weight| self.weights.vector(weight)[0]);
                by_rows(pool, buffer.num_rows, |rows| isa.run(ScaleTask { buffer, factor, rows }));
            }
            Op::SoftCap { buffer, cap } => {
                let buffer = view(buffer);
                by_rows(pool, buffer.num_rows, |rows| isa.run(SoftCapTask { buffer, cap, rows }));
            }
            Op::SigmoidGateRows { gate, output } => {
                let (gate, output) = (view(gate), view(output));
                by_rows(pool, output.num_rows, |rows| isa.run(SigmoidGateRowsTask { gate, output, rows }));
            }
            Op::MoeRoute { logits, rule, top_k, output } => {
                let (logits, output) = (view(logits), view(output));
                by_rows(pool, output.num_rows, |rows| {
                    rows.for_each(|row| moe_route(logits, (rule, top_k), output, row));
                });
            }
            _ => unreachable!("{} is not one of these", op.name()),
        }
    }
}

/// Calls `task` with ranges that cover all rows; in this thread alone if they are few.
pub(super) fn by_rows(pool: &mut Pool, num_rows: usize, task: impl Fn(Range<usize>) + Sync) {
    let num_tasks = num_rows.div_ceil(ROWS_PER_TASK);
    pool.run(num_tasks, &|index, _| {
        task(index * ROWS_PER_TASK..num_rows.min((index + 1) * ROWS_PER_TASK));
    });
}
