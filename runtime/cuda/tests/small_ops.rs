//! Norms, rotation, routing and what is done to single elements, on the device against reference.
#![allow(clippy::print_stdout, reason = "what was compared is worth reading")]

#[path = "../../kernels/tests/common/mod.rs"]
mod common;
mod device;

use common::op_plans::{experts, scaled_rotary};
use common::plans::PlanBuilder;
use common::{MemoryWeights, Part, assert_close, limits, limits_of_rows, norm, prepare, rows_step, run, step};
use kindling_cuda::CudaBackend;
use kindling_kernels::{
    Activation, BufferId, DType, Op, Plan, ReferenceBackend, RopeScaling, RotaryStyle, RouteRule, Rows, Step,
};

/// Another order of f32 sums, other exponentials: measured 4.4e-7 at most on 2026-11-23.
const TOLERANCE: f64 = 1e-6;
/// Activations of experts are rounded to BF16 twice, weights of whole numbers too: measured 4.3e-3.
const EXPERTS: f64 = 8e-3;

fn check(backend: &CudaBackend, model: &(Plan, MemoryWeights), step: &Step, tolerance: f64, what: &str) {
    let limits = limits_of_rows(150);
    let expected = run(&ReferenceBackend, model, &limits, step);
    let found = run(backend, model, &limits, step);
    assert_close(&found, &expected, tolerance, what);
}

/// A plan that changes one random buffer, or takes it together with another.
fn changes(width: usize, ops: impl Fn(&mut PlanBuilder, BufferId, BufferId)) -> (Plan, MemoryWeights) {
    let mut builder = PlanBuilder::new(width);
    let (buffer, other) = (builder.input(width), builder.input(width));
    ops(&mut builder, buffer, other);
    builder.finish(buffer)
}

#[test]
fn norms_match_reference_in_place_by_heads_and_with_offsets() {
    let Some(backend) = device::backend() else { return };
    for width in [1, 7, 32, 576, 1536] {
        let model = changes(width, |builder, buffer, _| {
            let weight = builder.weight(DType::F32, &[width], 1.0);
            let op = norm(&builder.plan, (buffer, weight), buffer);
            builder.plan.ops.push(op);
        });
        check(&backend, &model, &rows_step(17, width, 0), TOLERANCE, &format!("norm of {width}"));
    }
    for (group_width, num_groups) in [(64, 9), (20, 3), (1, 4)] {
        for (has_weight, weight_offset) in [(true, 1.0), (false, 0.0)] {
            let model = changes(group_width * num_groups, |builder, buffer, _| {
                let weight = has_weight.then(|| builder.weight(DType::BF16, &[group_width], 1.0));
                let (input, output) = (buffer, buffer);
                builder.plan.ops.push(Op::RmsNorm { input, weight, eps: 1e-6, weight_offset, group_width, output });
            });
            let step = rows_step(17, group_width * num_groups, 0);
            check(&backend, &model, &step, TOLERANCE, &format!("norm of {num_groups} x {group_width}"));
        }
    }
}

#[test]
fn elements_match_reference() {
    let Some(backend) = device::backend() else { return };
    let activations = [
        Activation::Silu,
        Activation::GeluTanh,
        Activation::Sigmoid,
        Activation::ClampedSwiglu { alpha: 1.702, limit: 2.5 },
    ];
    for width in [1, 7, 96, 576] {
        for activation in activations {
            let model = changes(width, |builder, gate, up| {
                for buffer in [gate, up] {
                    builder.plan.ops.push(Op::Scale { buffer, factor: 6.0, weight: None });
                }
                builder.plan.ops.push(Op::GatedActivation { gate, up, activation, output: gate });
            });
            check(&backend, &model, &rows_step(17, width, 0), TOLERANCE, &format!("{activation:?} {width}"));
        }
        let model = changes(width, |builder, buffer, other| {
            let weight = Some(builder.weight(DType::BF16, &[1], 3.0));
            builder.plan.ops.push(Op::Scale { buffer, factor: 24.5, weight });
            builder.plan.ops.push(Op::Add { input: other, output: buffer });
            builder.plan.ops.push(Op::SoftCap { buffer, cap: 2.5 });
            let gate = builder.input(1);
            builder.plan.ops.push(Op::SigmoidGateRows { gate, output: buffer });
        });
        check(&backend, &model, &rows_step(17, width, 0), TOLERANCE, &format!("scale, add, cap, gate {width}"));
    }
}

#[test]
fn rotation_matches_reference_for_both_styles_and_scalings() {
    let Some(backend) = device::backend() else { return };
    let yarn = RopeScaling::Yarn {
        factor: 32.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        original_context: 4096.0,
        attention_factor: 1.3465736,
        truncate: false,
    };
    for scaling in [RopeScaling::Linear { factor: 2.0 }, yarn] {
        for style in [RotaryStyle::Half, RotaryStyle::Interleaved] {
            for (head_dim, rotary_dim) in [(64, 64), (80, 32), (128, 128), (10, 6)] {
                let model = scaled_rotary(scaling, style, head_dim, rotary_dim);
                let tokens: Vec<u32> = (0..17).collect();
                let step = step(&[Part { tokens: &tokens, context_len: 100, blocks: &[0; 8] }], 0);
                check(&backend, &model, &step, TOLERANCE, &format!("{style:?} {rotary_dim} of {head_dim}"));
            }
        }
    }
}

#[test]
fn routes_match_reference_for_every_rule() {
    let Some(backend) = device::backend() else { return };
    let rules = [
        RouteRule::SoftmaxTopK { normalise: false },
        RouteRule::SoftmaxTopK { normalise: true },
        RouteRule::TopKSoftmax,
    ];
    for rule in rules {
        for (num_experts, top_k) in [(1, 1), (4, 4), (8, 2), (128, 8), (60, 4)] {
            let mut builder = PlanBuilder::new(num_experts);
            let logits = builder.input(num_experts);
            let output = builder.buffer(num_experts, Rows::Tokens);
            builder.plan.ops.push(Op::Scale { buffer: logits, factor: 4.0, weight: None });
            builder.plan.ops.push(Op::MoeRoute { logits, rule, top_k, output });
            let model = builder.finish(output);
            let step = rows_step(33, num_experts, 0);
            check(&backend, &model, &step, TOLERANCE, &format!("{rule:?} {top_k} of {num_experts}"));
        }
    }
}

#[test]
fn ties_of_routes_go_to_the_lower_index() {
    let Some(backend) = device::backend() else { return };
    let mut builder = PlanBuilder::new(40);
    let logits = builder.buffer(40, Rows::Tokens);
    let weight = builder.weight(DType::F32, &[40, 40], 1.0);
    let ones = [1f32; 1600].iter().flat_map(|one| one.to_le_bytes()).collect();
    builder.weights.insert("weight 0", DType::F32, &[40, 40], ones);
    builder.plan.ops.push(Op::EmbedTokens { weight, output: logits });
    let output = builder.buffer(40, Rows::Tokens);
    builder.plan.ops.push(Op::MoeRoute { logits, rule: RouteRule::TopKSoftmax, top_k: 2, output });
    let routes = run(&backend, &builder.finish(output), &limits(), &rows_step(1, 40, 0));
    assert_eq!((&routes[..2], &routes[2..]), (&[0.5, 0.5][..], &[0.0; 38][..]));
}

#[test]
fn experts_match_reference() {
    let Some(backend) = device::backend() else { return };
    for dtype in [DType::F32, DType::BF16, DType::Q4_1, DType::Q8_0, DType::NVFP4, DType::MXFP4] {
        let tolerance = if dtype == DType::F32 { 2e-6 } else { EXPERTS };
        for (has_bias, sizes) in [(false, (5, 2)), (true, (3, 1)), (true, (8, 8)), (true, (2, 1))] {
            let model = experts(dtype, has_bias, sizes);
            for num_rows in [1, 33, 150] {
                let step = rows_step(num_rows, model.0.vocab_size, 0);
                check(&backend, &model, &step, tolerance, &format!("{dtype} {sizes:?} x {num_rows}"));
            }
        }
    }
}

/// Alone it meets the matrices that were picked for it, with others those of its groups.
#[test]
fn a_row_of_experts_does_not_depend_on_the_batch() {
    let Some(backend) = device::backend() else { return };
    for dtype in [DType::F32, DType::BF16, DType::Q4_1, DType::Q8_0, DType::NVFP4, DType::MXFP4] {
        let model = experts(dtype, true, (5, 2));
        let (whole, width) = (rows_step(150, model.0.vocab_size, 0), model.0.vocab_size);
        let mut cuda = prepare(&backend, &model.0, &model.1, &limits_of_rows(150));
        let (mut together, mut alone) = (Vec::new(), Vec::new());
        cuda.execute(&whole, &mut together).unwrap();
        for row in (0..150).step_by(3) {
            let part = Part { tokens: &whole.token_ids[row..=row], context_len: 0, blocks: &[0] };
            cuda.execute(&step(&[part], 0), &mut alone).unwrap();
            assert_eq!(alone, together[row * width..(row + 1) * width], "{dtype}, row {row}");
        }
    }
}
