//! `rms_norm`: cpu against reference.

mod common;

use common::plans::PlanBuilder;
use common::{Part, assert_all_close, assert_close, cpu_backends, limits, norm, rows_step, run, step};
use kindling_kernels::{DType, Op, ReferenceBackend, Rows};

/// Order of f32 sums: measured 3.9e-7 at most on 2026-11-22.
const TOLERANCE: f64 = 1e-6;

#[test]
fn matches_reference_in_place_and_not() {
    for width in [1, 7, 32, 96, 576, 1536] {
        for num_rows in [1, 2, 3, 5, 17, 33] {
            let mut builder = PlanBuilder::new(width);
            let (input, output) = (builder.input(width), builder.buffer(width, Rows::Tokens));
            let weight = builder.weight(DType::F32, &[width], 1.0);
            let first = norm(&builder.plan, (input, weight), output);
            builder.plan.ops.push(first);
            let second = norm(&builder.plan, (output, weight), output);
            builder.plan.ops.push(second);
            let model = builder.finish(output);
            let tokens: Vec<u32> = (0..num_rows).map(|row| (row * 5 % width) as u32).collect();
            let step = step(&[Part { tokens: &tokens, context_len: 0, blocks: &[3, 1, 2] }], 0);
            let expected = run(&ReferenceBackend, &model, &limits(), &step);
            let mut first: Option<Vec<f32>> = None;
            for (isa, backend) in cpu_backends() {
                let found = run(&backend, &model, &limits(), &step);
                assert_close(&found, &expected, TOLERANCE, &format!("{num_rows} x {width} on {isa}"));
                assert_eq!(*first.get_or_insert(found.clone()), found, "instruction sets agree on every bit");
            }
        }
    }
}

#[test]
fn matches_reference_by_heads_without_weight_and_with_an_offset() {
    for (group_width, num_groups) in [(64, 9), (20, 3), (7, 5), (1, 4), (128, 1)] {
        for (has_weight, weight_offset) in [(true, 0.0), (true, 1.0), (false, 0.0)] {
            let width = group_width * num_groups;
            let mut builder = PlanBuilder::new(width);
            let input = builder.input(width);
            let weight = has_weight.then(|| builder.weight(DType::F32, &[group_width], 1.0));
            builder.plan.ops.push(Op::RmsNorm { input, weight, eps: 1e-6, weight_offset, group_width, output: input });
            let model = builder.finish(input);
            let what = format!("{num_groups} x {group_width}, weight {has_weight}, offset {weight_offset}");
            assert_all_close(&model, (&limits(), &rows_step(17, width, 0)), TOLERANCE, &what);
        }
    }
}
