//! `linear`: cpu against reference for every stored type, and what a row's result must not depend on.

mod common;

use std::sync::Arc;

use common::op_plans::linear;
use common::plans::PlanBuilder;
use common::{DTYPES, LONG_DTYPES, Part, assert_close, cpu_backends, limits, prepare, relative_error, run, step};
use kindling_kernels::{Activation, Backend, CpuBackend, DType, Limits, Op, ReferenceBackend, Rows, Step, TensorScale};

/// Activations are rounded to int8: measured 2.0e-2 for a single sum of 32 products and 7.9e-3 at most elsewhere on
/// 2026-11-22.
const INT_TOLERANCE: f64 = 3e-2;
/// Order of f32 sums: measured 2.8e-7 at most on 2026-11-22.
const FLOAT_TOLERANCE: f64 = 1e-6;

const SHAPES: [(usize, usize); 6] = [(1, 32), (17, 96), (96, 32), (576, 576), (200, 1536), (1536, 576)];
const ROWS: [usize; 6] = [1, 2, 3, 5, 17, 33];

fn rows(num_rows: usize, vocab_size: usize) -> Step {
    let tokens: Vec<u32> = (0..num_rows).map(|row| (row * 7 % vocab_size) as u32).collect();
    step(&[Part { tokens: &tokens, context_len: 0, blocks: &[0, 1, 2, 3] }], 0)
}

#[test]
fn matches_reference_for_every_type_shape_and_batch() {
    for dtype in DTYPES {
        let tolerance = if dtype.block_elements() > 1 { INT_TOLERANCE } else { FLOAT_TOLERANCE };
        for shape in SHAPES {
            let model = linear(dtype, shape, shape.0 % 3 == 0);
            let mut reference = prepare(&ReferenceBackend, &model.0, &model.1, &limits());
            for (isa, backend) in cpu_backends() {
                let mut cpu = prepare(&backend, &model.0, &model.1, &limits());
                for num_rows in ROWS {
                    let (step, mut expected, mut found) = (rows(num_rows, shape.0), Vec::new(), Vec::new());
                    reference.execute(&step, &mut expected).unwrap();
                    cpu.execute(&step, &mut found).unwrap();
                    assert_close(&found, &expected, tolerance, &format!("{dtype} {shape:?} x {num_rows} on {isa}"));
                }
            }
        }
    }
}

#[test]
fn rows_of_any_length_that_a_type_allows() {
    let odd = [
        (DType::NVFP4, (40, 16)),
        (DType::NVFP4, (17, 48)),
        (DType::NVFP4, (100, 592)),
        (DType::F8E4M3, (33, 1)),
        (DType::F8E4M3, (33, 37)),
        (DType::BF16, (50, 77)),
    ];
    for (dtype, shape) in odd {
        let tolerance = if dtype.block_elements() > 1 { INT_TOLERANCE } else { FLOAT_TOLERANCE };
        let model = linear(dtype, shape, true);
        let expected = run(&ReferenceBackend, &model, &limits(), &rows(11, shape.0));
        for (isa, backend) in cpu_backends() {
            let found = run(&backend, &model, &limits(), &rows(11, shape.0));
            assert_close(&found, &expected, tolerance, &format!("{dtype} {shape:?} on {isa}"));
        }
    }
}

#[test]
fn types_of_long_blocks_match_the_reference() {
    for dtype in LONG_DTYPES {
        let tolerance = if dtype == DType::F8E4M3Block128 { FLOAT_TOLERANCE } else { INT_TOLERANCE };
        for shape in [(17, 256), (200, 768)] {
            let model = linear(dtype, shape, true);
            let expected = run(&ReferenceBackend, &model, &limits(), &rows(11, shape.0));
            let results: Vec<_> = cpu_backends()
                .iter()
                .map(|(isa, backend)| {
                    let found = run(backend, &model, &limits(), &rows(11, shape.0));
                    assert_close(&found, &expected, tolerance, &format!("{dtype} {shape:?} on {isa}"));
                    found
                })
                .collect();
            assert!(results.iter().all(|result| result == &results[0]), "{dtype} {shape:?}");
        }
    }
}

#[test]
fn scales_beside_the_blocks_are_applied() {
    let shape = (200, 96);
    for dtype in DTYPES {
        let tolerance = if dtype.block_elements() > 1 { INT_TOLERANCE } else { FLOAT_TOLERANCE };
        let by_row: Arc<[f32]> = (0..shape.0).map(|row| 0.01 + row as f32).collect();
        for scale in [TensorScale::Tensor(0.037), TensorScale::Rows(by_row)] {
            let (plan, mut weights) = linear(dtype, shape, true);
            let unscaled = run(&ReferenceBackend, &(plan.clone(), weights), &limits(), &rows(5, shape.0));
            weights = linear(dtype, shape, true).1;
            // Of the input, a matrix that is looked up, and of the weight.
            weights.set_scale("weight 0", TensorScale::Tensor(1.5));
            weights.set_scale("weight 1", scale);
            let model = (plan, weights);
            let expected = run(&ReferenceBackend, &model, &limits(), &rows(5, shape.0));
            assert!(relative_error(&expected, &unscaled) > 0.1, "the scale matters");
            for (isa, backend) in cpu_backends() {
                let found = run(&backend, &model, &limits(), &rows(5, shape.0));
                assert_close(&found, &expected, tolerance, &format!("{dtype} scaled on {isa}"));
            }
        }
    }
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    for dtype in DTYPES {
        for shape in SHAPES {
            let (model, step) = (linear(dtype, shape, true), rows(17, shape.0));
            let results: Vec<_> =
                cpu_backends().iter().map(|(_, backend)| run(backend, &model, &limits(), &step)).collect();
            assert!(results.iter().all(|result| result == &results[0]), "{dtype} {shape:?}");
        }
    }
}

#[test]
fn a_row_does_not_depend_on_its_batch_or_on_threads() {
    for dtype in DTYPES {
        let (shape, batch) = ((208, 288), 33);
        let model = linear(dtype, shape, false);
        for (isa, backend) in cpu_backends() {
            let together = run(&backend, &model, &limits(), &rows(batch, shape.0));
            for num_threads in [2, 3] {
                let limits = Limits { num_threads, ..limits() };
                let threaded = run(&backend, &model, &limits, &rows(batch, shape.0));
                assert_eq!(threaded, together, "{dtype} on {isa} with {num_threads} threads");
            }
            let mut cpu = prepare(&backend, &model.0, &model.1, &limits());
            for row in 0..batch {
                let (mut alone, whole) = (Vec::new(), rows(batch, shape.0));
                let part = Part { tokens: &whole.token_ids[row..=row], context_len: 0, blocks: &[0] };
                cpu.execute(&step(&[part], 0), &mut alone).unwrap();
                assert_eq!(alone, together[row * shape.0..(row + 1) * shape.0], "{dtype} on {isa}, row {row}");
            }
        }
    }
}

#[test]
fn fused_layers_match_the_reference() {
    for (first, second) in [(DType::Q4_1, DType::Q4_1), (DType::Q8_0, DType::BF16), (DType::F32, DType::Q4_0)] {
        let width = 160;
        let mut builder = PlanBuilder::new(width);
        let (input, sums) = (builder.input(96), builder.input(width));
        let [gate, up, down] = [(); 3].map(|()| builder.buffer(width, Rows::Tokens));
        for (dtype, output) in [(first, gate), (second, up)] {
            let weight = builder.weight(dtype, &[width, 96], 0.3);
            builder.plan.ops.push(Op::Linear { input, weight, bias: None, output });
        }
        builder.plan.ops.push(Op::GatedActivation { gate, up, activation: Activation::Silu, output: gate });
        let weight = builder.weight(first, &[width, width], 0.3);
        builder.plan.ops.push(Op::Linear { input: gate, weight, bias: None, output: down });
        builder.plan.ops.push(Op::Add { input: down, output: sums });
        let model = builder.finish(sums);
        let expected = run(&ReferenceBackend, &model, &limits(), &rows(17, width));
        for (isa, backend) in cpu_backends() {
            let found = run(&backend, &model, &Limits { num_threads: 2, ..limits() }, &rows(17, width));
            assert_close(&found, &expected, INT_TOLERANCE, &format!("{first} and {second} on {isa}"));
        }
    }
}

#[test]
fn a_step_without_tokens_gives_no_logits() {
    let model = linear(DType::Q4_0, (96, 32), false);
    for backend in [&ReferenceBackend as &dyn Backend, &CpuBackend::new()] {
        assert_eq!(run(backend, &model, &limits(), &Step::default()), []);
    }
}
