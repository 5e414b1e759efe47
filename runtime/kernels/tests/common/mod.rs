//! What the kernel tests and benches share: random numbers, weights in memory, plans and steps.
#![allow(dead_code, reason = "every test uses a part of it")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "clippy's exception for tests knows test functions only")]

pub mod llama;
pub mod op_plans;
pub mod plans;

use std::collections::HashMap;
use std::ops::Range;

use half::{bf16, f16};
use kindling_kernels::dequantise::e4m3_to_f32;
use kindling_kernels::{
    Backend, BufferId, CpuBackend, DType, Isa, KvType, Limits, Op, Plan, PreparedModel, ReferenceBackend, Step,
    StepSequence, TensorDesc, TensorScale, WeightError, WeightId, WeightSource,
};

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

/// SplitMix64: small, and the same everywhere.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Evenly in -1 to 1.
    pub fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// Evenly in 0 to `end - 1`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// 0 to `len - 1` in random order.
    pub fn permutation(&mut self, len: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..len as u32).collect();
        for last in (1..len).rev() {
            order.swap(last, self.below(last + 1));
        }
        order
    }
}

/// Tensors in memory.
#[derive(Default)]
pub struct MemoryWeights(HashMap<String, (TensorDesc, Vec<u8>)>);

impl MemoryWeights {
    /// Adds a random tensor whose values lie about evenly in `-amplitude` to `amplitude`.
    pub fn random(&mut self, rng: &mut Rng, name: &str, (dtype, shape): (DType, &[usize]), amplitude: f32) {
        let elements: usize = shape.iter().product();
        let mut bytes = Vec::with_capacity(dtype.bytes_for(elements).unwrap());
        for _ in 0..elements / dtype.block_elements() {
            random_block(rng, dtype, amplitude, &mut bytes);
        }
        self.insert(name, dtype, shape, bytes);
    }

    /// Adds a tensor as stored.
    pub fn insert(&mut self, name: &str, dtype: DType, shape: &[usize], bytes: Vec<u8>) {
        let desc = TensorDesc {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
            num_bytes: bytes.len(),
            scale: TensorScale::One,
        };
        self.0.insert(name.to_owned(), (desc, bytes));
    }

    /// Gives a tensor a scale beside its bytes.
    pub fn set_scale(&mut self, name: &str, scale: TensorScale) {
        self.0.get_mut(name).unwrap().0.scale = scale;
    }

    /// Forgets a tensor.
    pub fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Bytes of all tensors.
    pub fn num_bytes(&self) -> usize {
        self.0.values().map(|(desc, _)| desc.num_bytes).sum()
    }
}

fn random_block(rng: &mut Rng, dtype: DType, amplitude: f32, bytes: &mut Vec<u8>) {
    let value = rng.float() * amplitude;
    // Scales vary by a factor of two, as in real weights.
    let scale = |rng: &mut Rng, steps: f32| f16::from_f32(amplitude / steps * (0.75 + 0.25 * rng.float()));
    match dtype {
        DType::F32 => bytes.extend(value.to_le_bytes()),
        DType::F16 => bytes.extend(f16::from_f32(value).to_le_bytes()),
        DType::BF16 => bytes.extend(bf16::from_f32(value).to_le_bytes()),
        DType::Q8_0 => {
            bytes.extend(scale(rng, 127.0).to_le_bytes());
            (0..4).for_each(|_| bytes.extend(rng.next().to_le_bytes()));
        }
        DType::Q4_0 | DType::Q4_1 => {
            let step = scale(rng, 7.5);
            bytes.extend(step.to_le_bytes());
            if dtype == DType::Q4_1 {
                bytes.extend(f16::from_f32(step.to_f32() * (-7.5 + rng.float())).to_le_bytes());
            }
            (0..2).for_each(|_| bytes.extend(rng.next().to_le_bytes()));
        }
        DType::F8E4M3 => bytes.push(e4m3(value)),
        DType::NVFP4 => {
            bytes.push(e4m3(scale(rng, 6.0).to_f32()));
            bytes.extend(rng.next().to_le_bytes());
        }
        DType::MXFP4 => {
            bytes.push((127.0 + scale(rng, 6.0).to_f32().log2()) as u8);
            (0..2).for_each(|_| bytes.extend(rng.next().to_le_bytes()));
        }
        DType::Q5_0 | DType::Q5_1 => {
            let step = scale(rng, 15.5);
            bytes.extend(step.to_le_bytes());
            if dtype == DType::Q5_1 {
                bytes.extend(f16::from_f32(step.to_f32() * (-15.5 + rng.float())).to_le_bytes());
            }
            bytes.extend((rng.next() as u32).to_le_bytes());
            (0..2).for_each(|_| bytes.extend(rng.next().to_le_bytes()));
        }
        DType::Q4_K | DType::Q5_K => {
            let greatest = if dtype == DType::Q4_K { 15.0 } else { 31.0 };
            // Six bits of scale are 31 in the middle, and so are those of the minimum.
            bytes.extend(scale(rng, greatest / 2.0 * 31.0).to_le_bytes());
            bytes.extend(scale(rng, 31.0).to_le_bytes());
            bytes.extend((0..dtype.block_bytes() - 4).map(|_| rng.next() as u8));
        }
        DType::Q6_K => {
            bytes.extend((0..208).map(|_| rng.next() as u8));
            bytes.extend(scale(rng, 31.0 * 64.0).to_le_bytes());
        }
        DType::F8E4M3Block128 => {
            bytes.extend(scale(rng, 1.0).to_f32().to_le_bytes());
            bytes.extend((0..128).map(|_| e4m3(rng.float())));
        }
    }
}

/// The code of an E4M3 close to `value`, which is below 256.
fn e4m3(value: f32) -> u8 {
    let exponent = (value.abs().max(1e-6).log2().floor() as i32).max(-6);
    // Eighths of the power of two; sixteen of them are one of the next power.
    let eighths = (value.abs() / 2f32.powi(exponent - 3)).round() as i32;
    let code = if eighths < 8 { eighths } else { 8 * (exponent + 7) + eighths - 8 };
    assert!((e4m3_to_f32(code as u8) - value.abs()).abs() <= value.abs() / 15.0 + 2f32.powi(-10));
    code as u8 | if value < 0.0 { 0x80 } else { 0 }
}

impl WeightSource for MemoryWeights {
    fn describe(&self, name: &str) -> Option<TensorDesc> {
        self.0.get(name).map(|(desc, _)| desc.clone())
    }

    fn read_rows(&self, name: &str, rows: Range<usize>, out: &mut [u8]) -> Result<(), WeightError> {
        let (desc, bytes) = self.0.get(name).ok_or_else(|| WeightError::Missing { name: name.to_owned() })?;
        out.copy_from_slice(&bytes[rows.start * desc.row_bytes()..rows.end * desc.row_bytes()]);
        Ok(())
    }
}

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

/// The plain norm of whole rows.
pub fn norm(plan: &Plan, (input, weight): (BufferId, WeightId), output: BufferId) -> Op {
    let group_width = plan.buffers[input.0].width;
    Op::RmsNorm { input, weight: Some(weight), eps: 1e-5, weight_offset: 0.0, group_width, output }
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

/// A step of one sequence with `num_rows` tokens below `vocab_size`.
pub fn rows_step(num_rows: usize, vocab_size: usize, num_groups: usize) -> Step {
    let tokens: Vec<u32> = (0..num_rows).map(|row| (row * 5 % vocab_size) as u32).collect();
    step(&[Part { tokens: &tokens, context_len: 0, blocks: &[3, 1, 2, 0] }], num_groups)
}

/// What one sequence brings to a step.
pub struct Part<'a> {
    /// New tokens.
    pub tokens: &'a [u32],
    /// Tokens in the cache.
    pub context_len: usize,
    /// Blocks, the same for every group.
    pub blocks: &'a [u32],
}

/// A step of `parts` for a plan with `num_groups` cache groups that wants the logits of every row.
pub fn step(parts: &[Part<'_>], num_groups: usize) -> Step {
    let mut step = Step::default();
    for part in parts {
        step.sequences.push(StepSequence {
            query_start: step.token_ids.len(),
            query_len: part.tokens.len(),
            context_len: part.context_len,
            block_tables: vec![part.blocks.to_vec(); num_groups],
        });
        step.token_ids.extend(part.tokens);
        step.positions.extend((0..part.tokens.len()).map(|i| [(part.context_len + i) as u32; 3]));
    }
    step.logit_indices = (0..step.token_ids.len()).collect();
    step
}

/// Root mean square of the difference over that of the expected values.
pub fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    assert!(found.iter().all(|value| value.is_finite()));
    let square = |x: f32| f64::from(x) * f64::from(x);
    let error: f64 = found.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
    let size: f64 = expected.iter().map(|b| square(*b)).sum();
    (error / size.max(f64::MIN_POSITIVE)).sqrt()
}

/// Fails, and says by how much, if the relative error exceeds `tolerance`.
pub fn assert_close(found: &[f32], expected: &[f32], tolerance: f64, what: &str) {
    let error = relative_error(found, expected);
    println!("{what}: relative error {error:.2e}");
    assert!(error <= tolerance, "{what}: relative error {error:.2e} exceeds {tolerance:.2e}");
}
