//! The numeric truth: interprets a plan op by op with plain loops in f32.
//!
//! Tests compare the other backends with it. It is slow on purpose and does nothing clever.

mod add;
mod causal_conv;
mod embed_tokens;
mod gated_activation;
mod gated_delta_rule;
mod gather_logit_rows;
mod kv_cache;
mod kv_cache_append;
mod linear;
mod moe_experts;
mod moe_route;
mod paged_attention;
mod recurrent;
mod rms_norm;
mod rotary;
mod scale;
mod sigmoid_gate_rows;
mod slot_states;
mod soft_cap;

use crate::load::{Keeper, WeightHead, hold_weights, load_weights};
use crate::room::Room;
use crate::rotary_frequencies::{rotary_attention_factor, rotary_frequencies};
use crate::{
    Backend, BufferId, DType, ExecuteError, ExpertWeights, Limits, LoadProgress, MemoryUse, Op, Plan, PrepareError,
    PreparedModel, Rows, Step, WeightId, WeightSource, dequantise, validate,
};
pub(crate) use kv_cache::KvCache;
use slot_states::SlotStates;

/// Plain f32 arithmetic, one thread.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReferenceBackend;

impl Backend for ReferenceBackend {
    fn name(&self) -> &'static str {
        "reference"
    }

    fn kernels(&self) -> Vec<String> {
        vec!["all: f32 loops".to_owned()]
    }

    fn prepare(
        &self,
        plan: &Plan,
        weights: &dyn WeightSource,
        limits: &Limits,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Box<dyn PreparedModel>, PrepareError> {
        validate::validate(plan, limits)?;
        let room = Room::real();
        let tensors = load_weights(plan, weights, limits.num_threads, progress, &Dequantise(&room))?;
        let tensors: Vec<Vec<f32>> = tensors.into_iter().map(|tensor| tensor.values).collect();
        let rotaries = plan
            .rotaries
            .iter()
            .map(|spec| {
                rotary_frequencies(spec, spec.frequency_factors.map(|WeightId(index)| tensors[index].as_slice()))
            })
            .collect();
        let (caches, states) = caches(plan, limits, &room)?;
        let buffers = vec![Vec::new(); plan.buffers.len()];
        let (plan, limits) = (plan.clone(), limits.clone());
        Ok(Box::new(ReferenceModel { plan, limits, tensors, rotaries, caches, states, buffers }))
    }

    fn predict(&self, plan: &Plan, weights: &dyn WeightSource, limits: &Limits) -> Result<MemoryUse, PrepareError> {
        validate::validate(plan, limits)?;
        let [for_weights, for_cache] = [Room::counted(), Room::counted()];
        hold_weights(plan, weights, &Dequantise(&for_weights))?;
        caches(plan, limits, &for_cache)?;
        Ok(MemoryUse {
            weight_bytes: for_weights.num_bytes(),
            kv_cache_bytes: for_cache.num_bytes(),
            activation_bytes: plan.arena_bytes(limits.max_tokens_per_step, limits.max_logits_per_step),
        })
    }
}

/// What all layers keep of the tokens before.
fn caches(plan: &Plan, limits: &Limits, room: &Room) -> Result<(Vec<KvCache>, Vec<SlotStates>), PrepareError> {
    let groups = plan.cache_groups.iter().zip(&limits.num_blocks);
    let caches = groups
        .clone()
        .map(|(spec, num_blocks)| KvCache::new(spec, limits, *num_blocks, room))
        .collect::<Result<_, _>>()?;
    let states = groups.map(|(spec, num_slots)| SlotStates::new(spec, *num_slots, room)).collect::<Result<_, _>>()?;
    Ok((caches, states))
}

/// Makes f32 of everything.
struct Dequantise<'a>(&'a Room);

/// A weight that is being read.
struct Tensor {
    values: Vec<f32>,
    dtype: DType,
    row_len: usize,
    row_scales: Option<Vec<f32>>,
}

impl Keeper for Dequantise<'_> {
    type Held = Tensor;

    fn begin(&self, head: WeightHead<'_>) -> Result<Tensor, PrepareError> {
        let WeightHead { spec, dtype, row_scales } = head;
        let values = self.0.zeroes(spec.num_rows().checked_mul(spec.row_len()), "a weight")?;
        Ok(Tensor { values, dtype, row_len: spec.row_len(), row_scales })
    }

    fn rows(&self, held: &mut Tensor, first_row: usize, bytes: &[u8]) {
        let Tensor { values, dtype, row_len, row_scales } = held;
        let row_bytes = dtype.bytes_for(*row_len).expect("rows should be whole blocks: the loader has checked it");
        let rows = values.chunks_exact_mut(*row_len).enumerate().skip(first_row);
        for ((row, values), bytes) in rows.zip(bytes.chunks_exact(row_bytes)) {
            dequantise::dequantise_into(*dtype, bytes, values);
            if let Some(scales) = row_scales {
                values.iter_mut().for_each(|value| *value *= scales[row]);
            }
        }
    }
}

struct ReferenceModel {
    plan: Plan,
    limits: Limits,
    tensors: Vec<Vec<f32>>,
    rotaries: Vec<Vec<f32>>,
    caches: Vec<KvCache>,
    states: Vec<SlotStates>,
    buffers: Vec<Vec<f32>>,
}

impl PreparedModel for ReferenceModel {
    fn execute(&mut self, step: &Step, logits: &mut Vec<f32>) -> Result<(), ExecuteError> {
        step.validate(&self.plan, &self.limits)?;
        for (buffer, spec) in self.buffers.iter_mut().zip(&self.plan.buffers) {
            let rows = match spec.rows {
                Rows::Tokens => step.token_ids.len(),
                Rows::Logits => step.logit_indices.len(),
            };
            buffer.resize(rows * spec.width, 0.0);
        }
        self.copy_slots(&step.copies_before);
        self.clear_new_slots(step);
        for index in 0..self.plan.ops.len() {
            let op = self.plan.ops[index].clone();
            self.execute_op(&op, step);
        }
        self.copy_slots(&step.copies_after);
        logits.clear();
        logits.extend_from_slice(&self.buffers[self.plan.logits.0]);
        Ok(())
    }

    fn memory(&self) -> MemoryUse {
        let bytes = |values: &[Vec<f32>]| values.iter().map(|v| size_of_val(v.as_slice())).sum();
        MemoryUse {
            weight_bytes: bytes(&self.tensors),
            kv_cache_bytes: self.caches.iter().map(|c| 2 * size_of_val(c.keys.as_slice())).sum::<usize>()
                + self.states.iter().map(|states| size_of_val(states.values.as_slice())).sum::<usize>(),
            activation_bytes: self.plan.arena_bytes(self.limits.max_tokens_per_step, self.limits.max_logits_per_step),
        }
    }
}

impl ReferenceModel {
    fn execute_op(&mut self, op: &Op, step: &Step) {
        match *op {
            Op::EmbedTokens { weight, output } => {
                embed_tokens::embed_tokens(&step.token_ids, &self.tensors[weight.0], &mut self.buffers[output.0]);
            }
            Op::RmsNorm { input, weight, eps, weight_offset, group_width, output } => {
                let input = self.buffers[input.0].clone();
                let weight = weight.map(|weight| self.tensors[weight.0].as_slice());
                let spec = rms_norm::NormSpec { weight, eps, weight_offset, group_width };
                rms_norm::rms_norm(&input, &spec, &mut self.buffers[output.0]);
            }
            Op::Linear { input, weight, bias, output } => {
                let input = linear::LinearInput {
                    rows: &self.buffers[input.0].clone(),
                    row_len: self.width(input),
                    weight: &self.tensors[weight.0],
                    bias: bias.map(|bias| self.tensors[bias.0].as_slice()),
                };
                linear::linear(&input, &mut self.buffers[output.0]);
            }
            Op::Rotary { .. } | Op::KvCacheAppend { .. } | Op::PagedAttention { .. } => {
                self.execute_attention(op, step)
            }
            Op::GatedActivation { gate, up, activation, output } => {
                let (gate, up) = (self.buffers[gate.0].clone(), self.buffers[up.0].clone());
                gated_activation::gated_activation(&gate, &up, activation, &mut self.buffers[output.0]);
            }
            Op::Scale { buffer, factor, weight } => {
                let weight = weight.map(|weight| self.tensors[weight.0][0]);
                scale::scale(&mut self.buffers[buffer.0], factor, weight);
            }
            Op::SoftCap { buffer, cap } => soft_cap::soft_cap(&mut self.buffers[buffer.0], cap),
            Op::SigmoidGateRows { .. } | Op::MoeRoute { .. } | Op::MoeExperts { .. } => self.execute_moe(op),
            Op::CausalConv { .. } | Op::GatedDeltaRule { .. } => self.execute_delta_net(op, step),
            Op::Add { input, output } => {
                let input = self.buffers[input.0].clone();
                add::add(&input, &mut self.buffers[output.0]);
            }
            Op::GatherLogitRows { input, output } => {
                let (input, row_len) = (self.buffers[input.0].clone(), self.width(input));
                gather_logit_rows::gather_logit_rows(&input, row_len, &step.logit_indices, &mut self.buffers[output.0]);
            }
        }
    }

    fn execute_attention(&mut self, op: &Op, step: &Step) {
        match *op {
            Op::Rotary { buffer, num_heads: _, head_dim, table } => {
                let (spec, frequencies) = (&self.plan.rotaries[table.0], self.rotaries[table.0].as_slice());
                let attention_factor = rotary_attention_factor(spec);
                let table = rotary::RotaryTable { style: spec.style, frequencies, attention_factor };
                let row_len = self.plan.buffers[buffer.0].width;
                for (row, position) in self.buffers[buffer.0].chunks_exact_mut(row_len).zip(&step.positions) {
                    rotary::rotary(row, head_dim, &table, position[0]);
                }
            }
            Op::KvCacheAppend { key, value, group, layer, kv_scales } => {
                let (key, value) = (&self.buffers[key.0], &self.buffers[value.0]);
                let scale = |weight: WeightId| self.tensors[weight.0][0];
                let scales = kv_scales.map_or((1.0, 1.0), |(key, value)| (scale(key), scale(value)));
                let spec = kv_cache_append::AppendSpec { group, layer, scales };
                kv_cache_append::kv_cache_append(&mut self.caches[group.0], &spec, step, (key, value));
            }
            Op::PagedAttention { query, output, num_heads: _, scale, sinks, group, layer } => {
                let query = self.buffers[query.0].clone();
                let sinks = sinks.map(|sinks| self.tensors[sinks.0].as_slice());
                let cache = &self.plan.cache_groups[group.0];
                let spec = paged_attention::AttentionSpec { group, layer, scale, sinks, cache };
                paged_attention::paged_attention(
                    &spec,
                    &self.caches[group.0],
                    step,
                    (&query, &mut self.buffers[output.0]),
                );
            }
            _ => unreachable!("execute_op should have seen to {}", op.name()),
        }
    }

    fn execute_moe(&mut self, op: &Op) {
        match *op {
            Op::SigmoidGateRows { gate, output } => {
                let gate = self.buffers[gate.0].clone();
                sigmoid_gate_rows::sigmoid_gate_rows(&gate, &mut self.buffers[output.0]);
            }
            Op::MoeRoute { logits, rule, top_k, output } => {
                let (logits, num_experts) = (self.buffers[logits.0].clone(), self.width(logits));
                moe_route::moe_route(&logits, num_experts, rule, top_k, &mut self.buffers[output.0]);
            }
            Op::MoeExperts { input, routes, experts, activation, top_k: _, output } => {
                let ExpertWeights { gate, up, down, gate_bias, up_bias, down_bias } = experts;
                let (num_experts, hidden_size) = (self.width(routes), self.width(input));
                let tensor = |weight: WeightId| self.tensors[weight.0].as_slice();
                let experts = moe_experts::MoeExperts {
                    gate: tensor(gate),
                    up: tensor(up),
                    down: tensor(down),
                    gate_bias: gate_bias.map(tensor),
                    up_bias: up_bias.map(tensor),
                    down_bias: down_bias.map(tensor),
                    activation,
                    num_experts,
                    hidden_size,
                };
                let (input, routes) = (self.buffers[input.0].clone(), self.buffers[routes.0].clone());
                moe_experts::moe_experts(&experts, &input, &routes, &mut self.buffers[output.0]);
            }
            _ => unreachable!("execute_op should have seen to {}", op.name()),
        }
    }

    fn width(&self, buffer: BufferId) -> usize {
        self.plan.buffers[buffer.0].width
    }
}
