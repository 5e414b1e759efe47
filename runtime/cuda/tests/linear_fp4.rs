//! NVFP4 weights with activations in NVFP4 on the device, against reference with activations that were rounded before.
#![allow(clippy::print_stdout, reason = "what was compared is worth reading")]

#[path = "../../kernels/tests/common/mod.rs"]
mod common;
mod device;

use common::op_plans::{experts, linear};
use common::{MemoryWeights, Part, assert_close, limits, limits_of_rows, prepare, rows_step, run, step};
use kindling_cuda::{Activations, CudaBackend};
use kindling_kernels::{Backend, DType, Plan, PrepareError, ReferenceBackend, TensorScale};

/// Products and their sums are those of f32, in another order: measured 3.0e-7 at most on 2026-11-23, on the stand-in.
const TOLERANCE: f64 = 3e-6;
/// What rounding changes: measured 9.5e-2 and 1.04e-1.
const ROUNDING: std::ops::Range<f64> = 0.05..0.2;

/// Nothing, aloud, where the device has no such instruction.
fn backend() -> Option<CudaBackend> {
    let loaded = device::loaded()?;
    if !loaded.code.has_fp4 {
        println!("SKIPPED: FP4: {} has no such instruction", loaded.gpu.name);
        return None;
    }
    Some(CudaBackend::on(loaded).activations(Activations::Fp4))
}

fn rounded((plan, weights): &(Plan, MemoryWeights)) -> (Plan, MemoryWeights) {
    let mut weights = weights.clone();
    weights.round_to_nvfp4("weight 0");
    (plan.clone(), weights)
}

#[test]
fn matches_reference_with_rounded_activations() {
    let Some(backend) = backend() else { return };
    for (shape, bias) in
        [((16, 64), false), ((17, 16), true), ((40, 48), false), ((100, 592), true), ((64, 1536), true)]
    {
        let mut model = linear(DType::NVFP4, shape, bias);
        if bias {
            model.1.set_scale("weight 1", TensorScale::Tensor(0.37));
        }
        for num_rows in [1, 8, 9, 40, 65, 150] {
            let (step, limits) = (rows_step(num_rows, shape.0, 0), limits_of_rows(150));
            let found = run(&backend, &model, &limits, &step);
            let expected = run(&ReferenceBackend, &rounded(&model), &limits, &step);
            assert_close(&found, &expected, TOLERANCE, &format!("{shape:?} x {num_rows}"));
        }
    }
    let model = linear(DType::NVFP4, (100, 592), false);
    let (step, limits) = (rows_step(40, 100, 0), limits());
    let found = run(&backend, &model, &limits, &step);
    let error = common::relative_error(&found, &run(&ReferenceBackend, &model, &limits, &step));
    println!("rounding changes the output by {error:.2e}");
    assert!(ROUNDING.contains(&error), "{error}");
}

/// Both products of an expert round; the second one's rows are its own.
#[test]
fn experts_come_close_and_no_row_depends_on_its_batch() {
    let Some(backend) = backend() else { return };
    let model = experts(DType::NVFP4, true, (5, 2));
    let (whole, width) = (rows_step(150, model.0.vocab_size, 0), model.0.vocab_size);
    let limits = common::with_blocks(&limits_of_rows(150), &model.0);
    let mut cuda = prepare(&backend, &model.0, &model.1, &limits);
    assert_eq!(cuda.memory(), backend.predict(&model.0, &model.1, &limits).expect("it should be predicted"));
    let (mut together, mut alone) = (Vec::new(), Vec::new());
    cuda.execute(&whole, &mut together).expect("it should compute");
    let error = common::relative_error(&together, &run(&ReferenceBackend, &model, &limits, &whole));
    println!("rounding changes experts by {error:.2e}");
    assert!(ROUNDING.contains(&error), "{error}");
    for row in (0..150).step_by(3) {
        let part = Part { tokens: &whole.token_ids[row..=row], context_len: 0, blocks: &[0] };
        cuda.execute(&step(&[part], 0), &mut alone).expect("it should compute");
        assert_eq!(alone, together[row * width..(row + 1) * width], "row {row}");
    }
}

#[test]
fn what_is_no_number_stays_none_and_zeros_stay_zeros() {
    let Some(backend) = backend() else { return };
    let (plan, mut weights) = linear(DType::NVFP4, (3, 64), false);
    let mut rows = vec![0f32; 3 * 64];
    rows[64..128].fill(2.0);
    rows[70] = f32::NAN;
    rows[128] = f32::INFINITY;
    weights.insert("weight 0", DType::F32, &[3, 64], rows.iter().flat_map(|value| value.to_le_bytes()).collect());
    let tokens = [0, 1, 2];
    let step = step(&[Part { tokens: &tokens, context_len: 0, blocks: &[0] }], 0);
    let found = run(&backend, &(plan, weights), &limits(), &step);
    assert_eq!(found[..3], [0.0; 3]);
    assert!(found[3..].iter().all(|value| !value.is_finite()), "{found:?}");
}

/// Nobody gets other activations than were asked for. A stand-in of today's device has this done by one of an older device.
#[test]
fn a_device_without_the_instruction_refuses() {
    let Some(loaded) = device::loaded() else { return };
    if loaded.code.has_fp4 && device::is_real() {
        println!("SKIPPED: a device without FP4: this one has it");
        return;
    }
    if loaded.code.has_fp4 {
        let mut older = std::process::Command::new(std::env::current_exe().expect("this program"));
        older.args(["--exact", "a_device_without_the_instruction_refuses", "--nocapture"]);
        let output = older.env("STAND_IN_COMPUTE", "90").output().expect("this program");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("refused: "), "{said}");
        return;
    }
    let (plan, weights) = linear(DType::NVFP4, (3, 64), false);
    let limits = common::with_blocks(&limits(), &plan);
    let backend = CudaBackend::on(loaded).activations(Activations::Fp4);
    let error = backend.prepare(&plan, &weights, &limits, &mut |_| {}).err();
    let Some(PrepareError::Unsupported { what, .. }) = error else { panic!("{error:?}") };
    assert!(what.starts_with("activations in FP4 on ") && what.ends_with("whose code is for sm_90"), "{what}");
    println!("refused: {what}");
}
