//! `linear` and `embed_tokens` on the device against reference: every stored type, odd shapes, many rows and few.
#![allow(clippy::print_stdout, reason = "what was compared is worth reading")]

#[path = "../../kernels/tests/common/mod.rs"]
mod common;
mod device;

use std::sync::Arc;

use common::op_plans::linear;
use common::plans::PlanBuilder;
use common::{
    DTYPES, LONG_DTYPES, Part, assert_close, limits, limits_of_rows, prepare, relative_error, rows_step, run, step,
};
use kindling_kernels::{DType, Op, ReferenceBackend, Rows, TensorScale};

/// Activations are rounded to BF16, and so are weights that are whole numbers with a scale. Measured on 2026-11-23 on the
/// stand-in, whose sums are exact: 3.0e-3 at most.
const TOLERANCE: f64 = 6e-3;
/// The same where the output is a single sum of 32 products, which may be small beside them: measured 1.63e-2.
const SINGLE: f64 = 4e-2;
/// F32 and F16 meet f32; measured 7.8e-7.
const EXACT: f64 = 2e-6;

const SHAPES: [(usize, usize); 5] = [(1, 32), (17, 96), (96, 32), (200, 576), (64, 1536)];
const ROWS: [usize; 7] = [1, 2, 8, 9, 40, 65, 150];

fn tolerance(dtype: DType, features: usize) -> f64 {
    match dtype {
        DType::F32 | DType::F16 => EXACT,
        _ if features == 1 => SINGLE,
        _ => TOLERANCE,
    }
}

#[test]
fn matches_reference_for_every_type_shape_and_batch() {
    let Some(backend) = device::backend() else { return };
    for dtype in DTYPES {
        for shape in SHAPES {
            let model = linear(dtype, shape, shape.0 % 3 == 0);
            let limits = limits_of_rows(150);
            let mut reference = prepare(&ReferenceBackend, &model.0, &model.1, &limits);
            let mut cuda = prepare(&backend, &model.0, &model.1, &limits);
            for num_rows in ROWS {
                let (step, mut expected, mut found) = (rows_step(num_rows, shape.0, 0), Vec::new(), Vec::new());
                reference.execute(&step, &mut expected).unwrap();
                cuda.execute(&step, &mut found).unwrap();
                assert_close(&found, &expected, tolerance(dtype, shape.0), &format!("{dtype} {shape:?} x {num_rows}"));
            }
        }
    }
}

#[test]
fn rows_of_any_length_and_long_blocks() {
    let Some(backend) = device::backend() else { return };
    let odd = [
        (DType::NVFP4, (40, 16)),
        (DType::NVFP4, (17, 48)),
        (DType::NVFP4, (100, 592)),
        (DType::F8E4M3, (33, 1)),
        (DType::F8E4M3, (33, 37)),
        (DType::BF16, (50, 77)),
        (DType::F16, (50, 77)),
    ];
    let long = LONG_DTYPES.iter().flat_map(|dtype| [(*dtype, (17, 256)), (*dtype, (200, 768))]);
    for (dtype, shape) in odd.into_iter().chain(long) {
        let model = linear(dtype, shape, true);
        for num_rows in [11, 70] {
            let (step, limits) = (rows_step(num_rows, shape.0, 0), limits_of_rows(70));
            let expected = run(&ReferenceBackend, &model, &limits, &step);
            let found = run(&backend, &model, &limits, &step);
            assert_close(&found, &expected, tolerance(dtype, shape.0), &format!("{dtype} {shape:?} x {num_rows}"));
        }
    }
}

#[test]
fn scales_beside_the_blocks_are_applied() {
    let Some(backend) = device::backend() else { return };
    let shape = (200, 256);
    for dtype in DTYPES.into_iter().chain(LONG_DTYPES) {
        let by_row: Arc<[f32]> = (0..shape.0).map(|row| 0.01 + row as f32).collect();
        for scale in [TensorScale::Tensor(0.037), TensorScale::Rows(by_row)] {
            let (plan, mut weights) = linear(dtype, shape, true);
            let (limits, few) = (limits_of_rows(70), rows_step(5, shape.0, 0));
            let unscaled = run(&ReferenceBackend, &(plan.clone(), weights), &limits, &few);
            weights = linear(dtype, shape, true).1;
            // Of the input, a matrix that is looked up, and of the weight.
            weights.set_scale("weight 0", TensorScale::Tensor(1.5));
            weights.set_scale("weight 1", scale);
            let model = (plan, weights);
            let expected = run(&ReferenceBackend, &model, &limits, &few);
            assert!(relative_error(&expected, &unscaled) > 0.1, "the scale matters");
            for step in [few, rows_step(70, shape.0, 0)] {
                let expected = run(&ReferenceBackend, &model, &limits, &step);
                let found = run(&backend, &model, &limits, &step);
                assert_close(&found, &expected, tolerance(dtype, shape.0), &format!("{dtype} scaled"));
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_its_batch() {
    let Some(backend) = device::backend() else { return };
    for dtype in DTYPES.into_iter().chain(LONG_DTYPES) {
        let shape = (144, 768);
        let mut model = linear(dtype, shape, true);
        model.1.set_scale("weight 1", TensorScale::Tensor(0.37));
        let mut cuda = prepare(&backend, &model.0, &model.1, &limits_of_rows(131));
        for (batch, step_by) in [(40, 1), (131, 5)] {
            let (whole, mut together) = (rows_step(batch, shape.0, 0), Vec::new());
            cuda.execute(&whole, &mut together).unwrap();
            for row in (0..batch).step_by(step_by) {
                let part = Part { tokens: &whole.token_ids[row..=row], context_len: 0, blocks: &[0] };
                let mut alone = Vec::new();
                cuda.execute(&step(&[part], 0), &mut alone).unwrap();
                assert_eq!(alone, together[row * shape.0..(row + 1) * shape.0], "{dtype}, row {row} of {batch}");
            }
        }
    }
}

#[test]
fn looked_up_rows_are_the_stored_ones() {
    let Some(backend) = device::backend() else { return };
    let short = DTYPES.iter().flat_map(|dtype| [32, 96, 576].map(|width| (*dtype, width)));
    for (dtype, width) in short.chain(LONG_DTYPES.map(|dtype| (dtype, 512))) {
        let mut builder = PlanBuilder::new(width);
        let (weight, output) = (builder.weight(dtype, &[width, width], 1.0), builder.buffer(width, Rows::Tokens));
        builder.plan.ops.push(Op::EmbedTokens { weight, output });
        let model = builder.finish(output);
        let step = rows_step(33, width, 0);
        let expected = run(&ReferenceBackend, &model, &limits(), &step);
        let found = run(&backend, &model, &limits(), &step);
        // Scales of K quants have been rounded to F16; a code times a scale plus a minimum is rounded once here.
        let tolerance = if dtype.block_elements() == 256 { 5e-4 } else { 1e-7 };
        assert_close(&found, &expected, tolerance, &format!("{dtype} {width}"));
    }
}
