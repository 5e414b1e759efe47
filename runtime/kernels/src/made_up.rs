//! Random weights, plans of single ops and steps: what tests, benchmarks and self-tests of devices compute on. The same for
//! the same seed everywhere.

pub mod plans;

use std::collections::HashMap;
use std::ops::Range;

use half::{bf16, f16};

use crate::dequantise::dequantise_into;
use crate::nvfp4::{Nvfp4Block, ScaleChoice, e4m3_from_f32, encode_block, tensor_scale};
use crate::{DType, Step, StepSequence, TensorDesc, TensorScale, WeightError, WeightSource};

/// SplitMix64: small, and the same everywhere.
#[derive(Debug, Clone)]
pub struct Rng(pub u64);

impl Rng {
    /// All 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Evenly in -1 to 1.
    pub fn float(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// Evenly in 0 to `end - 1`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.bits() % end as u64) as usize
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
#[derive(Debug, Clone, Default)]
pub struct MemoryWeights(HashMap<String, (TensorDesc, Vec<u8>)>);

impl MemoryWeights {
    /// Adds a random tensor whose values lie about evenly in `-amplitude` to `amplitude`.
    pub fn random(&mut self, rng: &mut Rng, name: &str, (dtype, shape): (DType, &[usize]), amplitude: f32) {
        let elements: usize = shape.iter().product();
        let mut bytes = Vec::with_capacity(dtype.bytes_for(elements).unwrap_or(0));
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

    /// Rounds the rows of a tensor in f32 to NVFP4, each row with a factor of its own: what a device makes of activations that
    /// it multiplies in FP4. Rows are a multiple of 16 long.
    ///
    /// # Panics
    /// If there is no such tensor.
    pub fn round_to_nvfp4(&mut self, name: &str) {
        let (desc, bytes) = self.0.get_mut(name).expect("the tensor should be there");
        assert_eq!(desc.dtype, DType::F32, "{name}");
        for row in bytes.chunks_exact_mut(desc.num_bytes / desc.num_rows()) {
            let mut values: Vec<f32> = row.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            let greatest = values.iter().fold(0f32, |greatest, value| greatest.max(value.abs()));
            let factor = tensor_scale(greatest, ScaleChoice::Round);
            for values in values.as_chunks_mut::<16>().0 {
                let Nvfp4Block { scale, nibbles } = encode_block(values, factor, ScaleChoice::Round);
                let (mut stored, mut rounded) = ([0; 9], [0.0; 16]);
                stored[0] = scale;
                stored[1..].copy_from_slice(&nibbles);
                dequantise_into(DType::NVFP4, &stored, &mut rounded);
                *values = rounded.map(|value| value * factor);
            }
            let rounded: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            row.copy_from_slice(&rounded);
        }
    }

    /// Gives a tensor a scale beside its bytes.
    pub fn set_scale(&mut self, name: &str, scale: TensorScale) {
        if let Some((desc, _)) = self.0.get_mut(name) {
            desc.scale = scale;
        }
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
            (0..4).for_each(|_| bytes.extend(rng.bits().to_le_bytes()));
        }
        DType::Q4_0 | DType::Q4_1 => {
            let step = scale(rng, 7.5);
            bytes.extend(step.to_le_bytes());
            if dtype == DType::Q4_1 {
                bytes.extend(f16::from_f32(step.to_f32() * (-7.5 + rng.float())).to_le_bytes());
            }
            (0..2).for_each(|_| bytes.extend(rng.bits().to_le_bytes()));
        }
        DType::F8E4M3 => bytes.push(e4m3(value)),
        DType::NVFP4 => {
            bytes.push(e4m3(scale(rng, 6.0).to_f32()));
            bytes.extend(rng.bits().to_le_bytes());
        }
        DType::MXFP4 => {
            bytes.push((127.0 + scale(rng, 6.0).to_f32().log2()) as u8);
            (0..2).for_each(|_| bytes.extend(rng.bits().to_le_bytes()));
        }
        DType::Q5_0 | DType::Q5_1 => {
            let step = scale(rng, 15.5);
            bytes.extend(step.to_le_bytes());
            if dtype == DType::Q5_1 {
                bytes.extend(f16::from_f32(step.to_f32() * (-15.5 + rng.float())).to_le_bytes());
            }
            bytes.extend((rng.bits() as u32).to_le_bytes());
            (0..2).for_each(|_| bytes.extend(rng.bits().to_le_bytes()));
        }
        DType::Q4_K | DType::Q5_K => {
            let greatest = if dtype == DType::Q4_K { 15.0 } else { 31.0 };
            // Six bits of scale are 31 in the middle, and so are those of the minimum.
            bytes.extend(scale(rng, greatest / 2.0 * 31.0).to_le_bytes());
            bytes.extend(scale(rng, 31.0).to_le_bytes());
            bytes.extend((0..dtype.block_bytes() - 4).map(|_| rng.bits() as u8));
        }
        DType::Q6_K => {
            bytes.extend((0..208).map(|_| rng.bits() as u8));
            bytes.extend(scale(rng, 31.0 * 64.0).to_le_bytes());
        }
        DType::F8E4M3Block128 => {
            bytes.extend(scale(rng, 1.0).to_f32().to_le_bytes());
            bytes.extend((0..128).map(|_| e4m3(rng.float())));
        }
    }
}

/// The code of the E4M3 that is nearest.
fn e4m3(value: f32) -> u8 {
    e4m3_from_f32(value.abs()) | if value < 0.0 { 0x80 } else { 0 }
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

/// Root mean square of the difference over that of the expected values; infinite if anything found is no finite number.
///
/// # Panics
/// If their numbers differ.
pub fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    if !found.iter().all(|value| value.is_finite()) {
        return f64::INFINITY;
    }
    let square = |x: f32| f64::from(x) * f64::from(x);
    let error: f64 = found.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
    let size: f64 = expected.iter().map(|b| square(*b)).sum();
    (error / size.max(f64::MIN_POSITIVE)).sqrt()
}
