//! `gated_activation`: cpu against reference.

mod common;

use common::plans::PlanBuilder;
use common::{Part, assert_all_close, assert_close, cpu_backends, limits, rows_step, run, step};
use kindling_kernels::{Activation, Op, ReferenceBackend};

/// Another exponential: measured 5.4e-8 at most on 2026-11-22.
const TOLERANCE: f64 = 2e-7;

#[test]
fn matches_reference_into_either_input() {
    for width in [1, 7, 32, 96, 576, 1536] {
        for num_rows in [1, 2, 3, 5, 17, 33] {
            let mut builder = PlanBuilder::new(width);
            let (gate, up) = (builder.input(width), builder.input(width));
            builder.plan.ops.push(Op::GatedActivation { gate, up, activation: Activation::Silu, output: up });
            builder.plan.ops.push(Op::GatedActivation { gate, up, activation: Activation::Silu, output: gate });
            let model = builder.finish(gate);
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
fn every_activation_matches_reference() {
    let activations = [
        Activation::Silu,
        Activation::GeluTanh,
        Activation::Sigmoid,
        Activation::ClampedSwiglu { alpha: 1.702, limit: 2.5 },
    ];
    for activation in activations {
        for width in [7, 96, 576] {
            let mut builder = PlanBuilder::new(width);
            let (gate, up) = (builder.input(width), builder.input(width));
            for buffer in [gate, up] {
                builder.plan.ops.push(Op::Scale { buffer, factor: 6.0, weight: None });
            }
            builder.plan.ops.push(Op::GatedActivation { gate, up, activation, output: gate });
            let model = builder.finish(gate);
            let what = format!("{activation:?} {width}");
            assert_all_close(&model, (&limits(), &rows_step(17, width, 0)), 5e-7, &what);
        }
    }
}
