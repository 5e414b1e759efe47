//! `moe_experts`: cpu against reference, and what a token's result must not depend on.

mod common;

use common::op_plans::experts;
use common::plans::PlanBuilder;
use common::{Part, assert_all_close, cpu_backends, limits, prepare, rows_step, run, step};
use kindling_kernels::{Activation, DType, ExpertWeights, Limits, Op, RouteRule, Rows};

/// Activations are rounded to int8 twice.
const INT_TOLERANCE: f64 = 3e-2;
/// Order of f32 sums.
const FLOAT_TOLERANCE: f64 = 2e-6;

#[test]
fn matches_reference_for_every_kind_of_weight() {
    for dtype in [DType::F32, DType::BF16, DType::Q4_1, DType::Q8_0, DType::NVFP4, DType::MXFP4] {
        let tolerance = if dtype.block_elements() > 1 { INT_TOLERANCE } else { FLOAT_TOLERANCE };
        for (has_bias, sizes) in [(false, (5, 2)), (true, (3, 1)), (true, (8, 8))] {
            let model = experts(dtype, has_bias, sizes);
            for num_rows in [1, 2, 33] {
                let limits = Limits { num_threads: 2, ..limits() };
                let step = rows_step(num_rows, model.0.vocab_size, 0);
                let what = format!("{dtype} {sizes:?} x {num_rows}");
                assert_all_close(&model, (&limits, &step), tolerance, &what);
            }
        }
    }
}

#[test]
fn experts_of_a_size_that_fills_no_panel() {
    let (hidden, inner) = (37, 21);
    let mut builder = PlanBuilder::new(hidden);
    let (input, logits) = (builder.input(hidden), builder.input(4));
    let (routes, output) = (builder.buffer(4, Rows::Tokens), builder.buffer(hidden, Rows::Tokens));
    let [gate, up] = [(); 2].map(|()| builder.weight(DType::BF16, &[4, inner, hidden], 0.2));
    let down = builder.weight(DType::F32, &[4, hidden, inner], 0.2);
    let experts = ExpertWeights { gate, up, down, gate_bias: None, up_bias: None, down_bias: None };
    builder.plan.ops.push(Op::MoeRoute { logits, rule: RouteRule::TopKSoftmax, top_k: 2, output: routes });
    let activation = Activation::GeluTanh;
    builder.plan.ops.push(Op::MoeExperts { input, routes, experts, activation, top_k: 2, output });
    let model = builder.finish(output);
    assert_all_close(&model, (&limits(), &rows_step(19, hidden, 0)), FLOAT_TOLERANCE, "37 and 21");
}

#[test]
fn a_row_does_not_depend_on_its_batch_or_on_threads() {
    for dtype in [DType::NVFP4, DType::BF16] {
        let model = experts(dtype, true, (5, 2));
        let (batch, width) = (64, model.0.vocab_size);
        for (isa, backend) in cpu_backends() {
            let whole = rows_step(batch, width, 0);
            let together = run(&backend, &model, &limits(), &whole);
            let threaded = run(&backend, &model, &Limits { num_threads: 3, ..limits() }, &whole);
            assert_eq!(threaded, together, "{dtype} on {isa}");
            let mut cpu = prepare(&backend, &model.0, &model.1, &limits());
            for row in 0..batch {
                let part = Part { tokens: &whole.token_ids[row..=row], context_len: 0, blocks: &[0] };
                let mut alone = Vec::new();
                cpu.execute(&step(&[part], 0), &mut alone).unwrap();
                assert_eq!(alone, together[row * width..(row + 1) * width], "{dtype} on {isa}, row {row}");
            }
        }
    }
}
