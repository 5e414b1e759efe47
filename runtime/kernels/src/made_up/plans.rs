//! Plans of a single op: embeddings make its inputs, and its output is gathered as the logits.

use super::{MemoryWeights, Rng};
use crate::{
    Activation, BufferId, BufferSpec, CacheGroupId, CacheGroupKind, CacheGroupSpec, DType, DeltaNetShape,
    ExpertWeights, Op, Plan, RopeScaling, RotaryId, RotarySpec, RotaryStyle, RouteRule, Rows, WeightId, WeightSpec,
};

/// A plan under construction. Its vocabulary is as large as the output is wide, so that the output can be the logits.
#[derive(Debug)]
pub struct PlanBuilder {
    /// So far.
    pub plan: Plan,
    /// Of it.
    pub weights: MemoryWeights,
    /// Where they come from.
    pub rng: Rng,
}

impl PlanBuilder {
    /// An empty plan whose output is `width` wide.
    pub fn new(width: usize) -> Self {
        let plan = Plan {
            weights: Vec::new(),
            buffers: Vec::new(),
            rotaries: Vec::new(),
            cache_groups: Vec::new(),
            ops: Vec::new(),
            logits: BufferId(0),
            vocab_size: width,
            max_position: 4096,
        };
        Self { plan, weights: MemoryWeights::default(), rng: Rng(width as u64) }
    }

    /// A weight with random values.
    pub fn weight(&mut self, dtype: DType, shape: &[usize], amplitude: f32) -> WeightId {
        let name = format!("weight {}", self.plan.weights.len());
        self.weights.random(&mut self.rng, &name, (dtype, shape), amplitude);
        self.plan.weights.push(WeightSpec::whole(name, shape.to_vec()));
        WeightId(self.plan.weights.len() - 1)
    }

    /// A buffer.
    pub fn buffer(&mut self, width: usize, rows: Rows) -> BufferId {
        self.plan.buffers.push(BufferSpec { name: format!("buffer {}", self.plan.buffers.len()), width, rows });
        BufferId(self.plan.buffers.len() - 1)
    }

    /// A buffer of random rows, one for each token id.
    pub fn input(&mut self, width: usize) -> BufferId {
        let weight = self.weight(DType::F32, &[self.plan.vocab_size, width], 1.0);
        let output = self.buffer(width, Rows::Tokens);
        self.plan.ops.push(Op::EmbedTokens { weight, output });
        output
    }

    /// Ends with `output` as the logits.
    pub fn finish(mut self, output: BufferId) -> (Plan, MemoryWeights) {
        let logits = self.buffer(self.plan.vocab_size, Rows::Logits);
        self.plan.ops.push(Op::GatherLogitRows { input: output, output: logits });
        self.plan.logits = logits;
        (self.plan, self.weights)
    }
}

/// The plain norm of whole rows.
pub fn norm(plan: &Plan, (input, weight): (BufferId, WeightId), output: BufferId) -> Op {
    let group_width = plan.buffers[input.0].width;
    Op::RmsNorm { input, weight: Some(weight), eps: 1e-5, weight_offset: 0.0, group_width, output }
}

/// One linear layer, `(out_features, in_features)`.
pub fn linear(dtype: DType, (out_features, in_features): (usize, usize), with_bias: bool) -> (Plan, MemoryWeights) {
    let mut builder = PlanBuilder::new(out_features);
    let input = builder.input(in_features);
    let weight = builder.weight(dtype, &[out_features, in_features], 0.1);
    let bias = with_bias.then(|| builder.weight(DType::F32, &[out_features], 1.0));
    let output = builder.buffer(out_features, Rows::Tokens);
    builder.plan.ops.push(Op::Linear { input, weight, bias, output });
    builder.finish(output)
}

/// Attention of `(query heads, key heads, elements per head)`.
pub fn attention(heads: (usize, usize, usize), kind: CacheGroupKind) -> (Plan, MemoryWeights) {
    attention_with(heads, kind, false)
}

/// `extras`: sinks, and scales of an 8-bit cache.
pub fn attention_with(
    (num_heads, num_kv_heads, head_dim): (usize, usize, usize),
    kind: CacheGroupKind,
    extras: bool,
) -> (Plan, MemoryWeights) {
    let (width, kv_width) = (num_heads * head_dim, num_kv_heads * head_dim);
    let mut builder = PlanBuilder::new(width);
    builder.plan.cache_groups.push(CacheGroupSpec { kind, num_layers: 2, num_kv_heads, head_dim });
    let (query, key, value) = (builder.input(width), builder.input(kv_width), builder.input(kv_width));
    let output = builder.buffer(width, Rows::Tokens);
    let (group, layer, scale) = (CacheGroupId(0), 1, 3.0 / (head_dim as f32).sqrt());
    let sinks = extras.then(|| builder.weight(DType::BF16, &[num_heads], 3.0));
    let kv_scales = extras.then(|| [(); 2].map(|()| builder.weight(DType::F32, &[1], 0.02)).into());
    builder.plan.ops.push(Op::KvCacheAppend { key, value, group, layer, kv_scales });
    builder.plan.ops.push(Op::PagedAttention { query, output, num_heads, scale, sinks, group, layer });
    builder.finish(output)
}

/// Experts of odd sizes: not a multiple of a panel's sixteen rows.
pub fn experts(dtype: DType, has_bias: bool, (num_experts, top_k): (usize, usize)) -> (Plan, MemoryWeights) {
    let (hidden, inner) = (96, 160);
    let mut builder = PlanBuilder::new(hidden);
    let (input, logits) = (builder.input(hidden), builder.input(num_experts));
    let (routes, output) = (builder.buffer(num_experts, Rows::Tokens), builder.buffer(hidden, Rows::Tokens));
    let [gate, up] = [(); 2].map(|()| builder.weight(dtype, &[num_experts, inner, hidden], 0.2));
    let down = builder.weight(dtype, &[num_experts, hidden, inner], 0.2);
    let mut bias = |width| has_bias.then(|| builder.weight(DType::BF16, &[num_experts, width], 0.5));
    let experts =
        ExpertWeights { gate, up, down, gate_bias: bias(inner), up_bias: bias(inner), down_bias: bias(hidden) };
    let activation = if has_bias { Activation::ClampedSwiglu { alpha: 1.702, limit: 7.0 } } else { Activation::Silu };
    builder.plan.ops.push(Op::MoeRoute { logits, rule: RouteRule::TopKSoftmax, top_k, output: routes });
    builder.plan.ops.push(Op::MoeExperts { input, routes, experts, activation, top_k, output });
    builder.finish(output)
}

/// The convolution and the gated delta rule of one layer, of two that a group has.
pub fn delta_net(shape: DeltaNetShape) -> (Plan, MemoryWeights) {
    let mut builder = PlanBuilder::new(shape.num_value_heads * shape.value_dim);
    let kind = CacheGroupKind::Recurrent { state_len: shape.state_len() };
    builder.plan.cache_groups.push(CacheGroupSpec { kind, num_layers: 2, num_kv_heads: 0, head_dim: 0 });
    let qkv = builder.input(shape.conv_channels());
    let [beta, alpha] = [(); 2].map(|()| builder.input(shape.num_value_heads));
    let weight = builder.weight(DType::F32, &[shape.conv_channels(), shape.conv_kernel], 0.7);
    let [a_log, dt_bias] = [(); 2].map(|()| builder.weight(DType::F32, &[shape.num_value_heads], 1.0));
    let output = builder.buffer(shape.num_value_heads * shape.value_dim, Rows::Tokens);
    let (group, layer) = (CacheGroupId(0), 1);
    builder.plan.ops.push(Op::CausalConv { buffer: qkv, weight, shape, group, layer });
    builder.plan.ops.push(Op::GatedDeltaRule { qkv, beta, alpha, a_log, dt_bias, shape, group, layer, output });
    builder.finish(output)
}

/// Heads in the rows of [`scaled_rotary`].
pub const NUM_HEADS: usize = 3;

/// Rotates all heads of a row, with factors of its own.
pub fn scaled_rotary(
    scaling: RopeScaling,
    style: RotaryStyle,
    head_dim: usize,
    rotary_dim: usize,
) -> (Plan, MemoryWeights) {
    let mut builder = PlanBuilder::new(NUM_HEADS * head_dim);
    let buffer = builder.input(NUM_HEADS * head_dim);
    let factors = builder.weight(DType::F32, &[rotary_dim / 2], 1.0);
    let scaling = Some(scaling);
    let table = RotarySpec { rotary_dim, theta: 10000.0, style, scaling, frequency_factors: Some(factors) };
    builder.plan.rotaries.push(table);
    builder.plan.ops.push(Op::Rotary { buffer, num_heads: NUM_HEADS, head_dim, table: RotaryId(0) });
    builder.finish(buffer)
}
