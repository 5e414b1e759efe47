//! Ops that keep a state in a slot of each sequence, and what steps do with slots.

use super::gated_delta_rule::{DeltaRule, DeltaToken};
use super::{ReferenceModel, causal_conv, gated_delta_rule};
use crate::{CacheGroupKind, Op, SlotCopy, Step, StepSequence};

impl ReferenceModel {
    /// Carries out snapshots or their restoration.
    pub(super) fn copy_slots(&mut self, copies: &[SlotCopy]) {
        for SlotCopy { group, from, to } in copies {
            self.states[*group].copy(*from, *to);
        }
    }

    /// A sequence without context starts from zeroes, whatever its slot held.
    pub(super) fn clear_new_slots(&mut self, step: &Step) {
        let recurrent = |kind| matches!(kind, CacheGroupKind::Recurrent { .. });
        for sequence in step.sequences.iter().filter(|sequence| sequence.context_len == 0) {
            let groups = self.plan.cache_groups.iter().zip(&sequence.block_tables).zip(&mut self.states);
            for ((_, table), states) in groups.filter(|((group, _), _)| recurrent(group.kind)) {
                states.clear(table[0]);
            }
        }
    }

    pub(super) fn execute_delta_net(&mut self, op: &Op, step: &Step) {
        match *op {
            Op::CausalConv { buffer, weight, shape, group, layer } => {
                let memory_len = shape.memory_len();
                for sequence in &step.sequences {
                    let state = self.states[group.0].layer_mut(sequence.block_tables[group.0][0], layer);
                    let rows = rows(&mut self.buffers[buffer.0], shape.conv_channels(), sequence);
                    let weight = &self.tensors[weight.0];
                    causal_conv::causal_conv(rows, weight, &mut state[memory_len..], shape.conv_kernel);
                }
            }
            Op::GatedDeltaRule { qkv, beta, alpha, a_log, dt_bias, shape, group, layer, output } => {
                let rule = DeltaRule { shape, a_log: &self.tensors[a_log.0], dt_bias: &self.tensors[dt_bias.0] };
                let (channels, heads) = (shape.conv_channels(), shape.num_value_heads);
                let mut recalled = std::mem::take(&mut self.buffers[output.0]);
                for sequence in &step.sequences {
                    let state = self.states[group.0].layer_mut(sequence.block_tables[group.0][0], layer);
                    let memory = &mut state[..shape.memory_len()];
                    let first = sequence.query_start;
                    for row in first..first + sequence.query_len {
                        let lanes = |width: usize| row * width..(row + 1) * width;
                        let token = DeltaToken {
                            qkv: &self.buffers[qkv.0][lanes(channels)],
                            beta: &self.buffers[beta.0][lanes(heads)],
                            alpha: &self.buffers[alpha.0][lanes(heads)],
                        };
                        let output = &mut recalled[lanes(heads * shape.value_dim)];
                        gated_delta_rule::gated_delta_rule(&rule, &token, memory, output);
                    }
                }
                self.buffers[output.0] = recalled;
            }
            _ => unreachable!("execute_op should have seen to {}", op.name()),
        }
    }
}

/// The rows of one sequence.
fn rows<'a>(buffer: &'a mut [f32], width: usize, sequence: &StepSequence) -> &'a mut [f32] {
    &mut buffer[sequence.query_start * width..(sequence.query_start + sequence.query_len) * width]
}
