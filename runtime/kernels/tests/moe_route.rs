//! `moe_route`: cpu against reference.

mod common;

use common::plans::PlanBuilder;
use common::{assert_all_close, limits, rows_step, run};
use kindling_kernels::{CpuBackend, DType, Op, RouteRule, Rows};

/// Order of f32 sums.
const TOLERANCE: f64 = 1e-6;

const RULES: [RouteRule; 3] =
    [RouteRule::SoftmaxTopK { normalise: false }, RouteRule::SoftmaxTopK { normalise: true }, RouteRule::TopKSoftmax];

#[test]
fn matches_reference_for_every_rule() {
    for rule in RULES {
        for (num_experts, top_k) in [(1, 1), (4, 4), (8, 2), (128, 8), (60, 4)] {
            let mut builder = PlanBuilder::new(num_experts);
            let logits = builder.input(num_experts);
            let output = builder.buffer(num_experts, Rows::Tokens);
            builder.plan.ops.push(Op::Scale { buffer: logits, factor: 4.0, weight: None });
            builder.plan.ops.push(Op::MoeRoute { logits, rule, top_k, output });
            let model = builder.finish(output);
            let step = rows_step(33, num_experts, 0);
            assert_all_close(&model, (&limits(), &step), TOLERANCE, &format!("{rule:?} {top_k} of {num_experts}"));
            let routes = run(&CpuBackend::new(), &model, &limits(), &step);
            for row in routes.chunks_exact(num_experts) {
                assert_eq!(row.iter().filter(|weight| **weight != 0.0).count(), top_k);
            }
        }
    }
}

#[test]
fn ties_go_to_the_lower_index() {
    let mut builder = PlanBuilder::new(6);
    let logits = builder.buffer(6, Rows::Tokens);
    let weight = builder.weight(DType::F32, &[6, 6], 1.0);
    let ones = [1f32; 36].iter().flat_map(|one| one.to_le_bytes()).collect();
    builder.weights.insert("weight 0", DType::F32, &[6, 6], ones);
    builder.plan.ops.push(Op::EmbedTokens { weight, output: logits });
    let output = builder.buffer(6, Rows::Tokens);
    builder.plan.ops.push(Op::MoeRoute { logits, rule: RouteRule::TopKSoftmax, top_k: 2, output });
    let model = builder.finish(output);
    let routes = run(&CpuBackend::new(), &model, &limits(), &rows_step(1, 6, 0));
    assert_eq!(routes, [0.5, 0.5, 0.0, 0.0, 0.0, 0.0]);
}
