//! Plans of one op, for every backend's tests.

use kindling_kernels::{
    Activation, Backend, CacheGroupId, CacheGroupKind, CacheGroupSpec, DType, ExpertWeights, Limits, Op, Plan,
    RopeScaling, RotaryId, RotarySpec, RotaryStyle, RouteRule, Rows,
};

use super::plans::PlanBuilder;
use super::{MemoryWeights, Part, prepare, step};

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

/// A sequence: its tokens and its blocks.
pub type Sequence<'a> = (&'a [u32], &'a [u32]);

/// Runs a sequence in steps of the given lengths; the rows of all steps one after another.
pub fn in_steps(
    backend: &dyn Backend,
    model: &(Plan, MemoryWeights),
    (tokens, blocks): Sequence<'_>,
    (cuts, limits): (&[usize], &Limits),
) -> Vec<f32> {
    let mut prepared = prepare(backend, &model.0, &model.1, limits);
    let (mut rows, mut logits, mut context_len) = (Vec::new(), Vec::new(), 0);
    for cut in cuts {
        let part = Part { tokens: &tokens[context_len..context_len + cut], context_len, blocks };
        prepared.execute(&step(&[part], 1), &mut logits).expect("the step should be valid");
        rows.extend_from_slice(&logits);
        context_len += cut;
    }
    rows
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
