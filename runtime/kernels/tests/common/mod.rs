//! What the kernel tests and benches share: random numbers, weights in memory, plans and steps.
#![allow(dead_code, unused_imports, reason = "every test uses a part of it")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "clippy's exception for tests knows test functions only")]

pub mod llama;
pub mod op_plans;

pub use kindling_kernels::made_up::plans::{self, norm};
pub use kindling_kernels::made_up::{MemoryWeights, Part, Rng, relative_error, rows_step, step};
use kindling_kernels::{Backend, CpuBackend, DType, Isa, KvType, Limits, Plan, PreparedModel, ReferenceBackend, Step};

/// Stored types of blocks up to 32.
pub const DTYPES: [DType; 11] = [
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::F8E4M3,
    DType::Q8_0,
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::NVFP4,
    DType::MXFP4,
];

/// Stored types of longer blocks: rows of a multiple of 256.
pub const LONG_DTYPES: [DType; 4] = [DType::Q4_K, DType::Q5_K, DType::Q6_K, DType::F8E4M3Block128];

/// Blocks of every cache group in small tests.
pub const NUM_BLOCKS: usize = 64;

/// Limits for small tests; the number of blocks follows the plan.
pub fn limits() -> Limits {
    Limits {
        max_tokens_per_step: 64,
        max_sequences: 8,
        max_logits_per_step: 64,
        max_context: 256,
        block_size: 16,
        num_blocks: Vec::new(),
        kv_type: KvType::Wide,
        num_threads: 1,
    }
}

/// The same for up to so many rows in a step.
pub fn limits_of_rows(num_rows: usize) -> Limits {
    let max_context = limits().max_context.max(num_rows);
    Limits { max_tokens_per_step: num_rows, max_logits_per_step: num_rows, max_context, ..limits() }
}

/// The same number of blocks for every cache group of `plan`, where the limits say nothing.
pub fn with_blocks(limits: &Limits, plan: &Plan) -> Limits {
    let mut limits = limits.clone();
    if limits.num_blocks.is_empty() {
        limits.num_blocks = vec![NUM_BLOCKS; plan.cache_groups.len()];
    }
    limits
}

/// One backend for every instruction set of this machine.
pub fn cpu_backends() -> Vec<(Isa, CpuBackend)> {
    Isa::available().into_iter().map(|isa| (isa, CpuBackend::with_isa(isa).unwrap())).collect()
}

/// Prepares, without looking at progress.
pub fn prepare(backend: &dyn Backend, plan: &Plan, weights: &MemoryWeights, limits: &Limits) -> Box<dyn PreparedModel> {
    backend.prepare(plan, weights, &with_blocks(limits, plan), &mut |_| {}).unwrap()
}

/// Prepares and runs one step.
pub fn run(backend: &dyn Backend, (plan, weights): &(Plan, MemoryWeights), limits: &Limits, step: &Step) -> Vec<f32> {
    let mut logits = Vec::new();
    prepare(backend, plan, weights, limits).execute(step, &mut logits).unwrap();
    logits
}

/// Runs one step on the reference and on every instruction set, which must come close to it and agree on every bit.
pub fn assert_all_close(model: &(Plan, MemoryWeights), (limits, step): (&Limits, &Step), tolerance: f64, what: &str) {
    let expected = run(&ReferenceBackend, model, limits, step);
    let mut first: Option<Vec<f32>> = None;
    for (isa, backend) in cpu_backends() {
        let found = run(&backend, model, limits, step);
        assert_close(&found, &expected, tolerance, &format!("{what} on {isa}"));
        assert_eq!(*first.get_or_insert(found.clone()), found, "instruction sets agree on every bit: {what}");
    }
}

/// Fails, and says by how much, if the relative error exceeds `tolerance`.
pub fn assert_close(found: &[f32], expected: &[f32], tolerance: f64, what: &str) {
    let error = relative_error(found, expected);
    println!("{what}: relative error {error:.2e}");
    assert!(error <= tolerance, "{what}: relative error {error:.2e} exceeds {tolerance:.2e}");
}
