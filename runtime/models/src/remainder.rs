//! What a checkpoint of few bits left in 16, quantised while it is read.
//!
//! Published checkpoints in NVFP4 keep their attention or their output matrix in BF16, and decoding reads those bytes for
//! every token. As FP8 they are half of it. Nothing is stored: who computes sees other types, and plans with them.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use half::f16;
use kindling_kernels::dequantise::dequantise_into;
use kindling_kernels::nvfp4::e4m3_from_f32;
use kindling_kernels::{DType, ExpertWeights, Op, Plan, TensorDesc, WeightError, WeightId, WeightSource};

/// The greatest number of E4M3.
const GREATEST: f32 = 448.0;

/// What becomes of matrices that are stored in 16 bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Remainder {
    /// They stay.
    #[default]
    Keep,
    /// FP8 (E4M3), with a scale for each 128; rows that 128 does not divide become whole numbers of 8 bits, with a scale for
    /// each 32.
    Fp8,
}

impl Remainder {
    /// Weights of a plan as they are computed with.
    pub fn apply(self, plan: &Plan, weights: Arc<dyn WeightSource>) -> Arc<dyn WeightSource> {
        match self {
            Self::Keep => weights,
            Self::Fp8 => Arc::new(Fp8Weights { tensors: tensors(plan, &*weights), inner: weights }),
        }
    }

    /// How a checkpoint is called whose tensors are stored so, if some of them become something else.
    pub fn quantization(self, stored: &str, num_changed: usize) -> String {
        match self {
            Self::Fp8 if num_changed > 0 => format!("{stored}, matrices of 16 bits in 8"),
            _ => stored.to_owned(),
        }
    }

    /// How many stored tensors become something else, and how many bytes less there are then to read.
    pub fn effect(self, plan: &Plan, weights: &dyn WeightSource) -> (usize, u64) {
        let changed = match self {
            Self::Keep => HashSet::new(),
            Self::Fp8 => tensors(plan, weights),
        };
        let saved = changed.iter().filter_map(|name| weights.describe(name)).map(|desc| {
            let fewer = narrowed(desc.clone()).num_bytes;
            (desc.num_bytes - fewer) as u64
        });
        (changed.len(), saved.sum())
    }
}

/// Some tensors in FP8.
struct Fp8Weights {
    tensors: HashSet<String>,
    inner: Arc<dyn WeightSource>,
}

/// Stored tensors that are only multiplied with, or looked up as well, and in 16 bits. Routers stay: an error there chooses
/// other experts.
fn tensors(plan: &Plan, source: &dyn WeightSource) -> HashSet<String> {
    let routers = plan.routers();
    let mut multiplied: HashSet<WeightId> = HashSet::new();
    for op in &plan.ops {
        match *op {
            Op::Linear { weight, .. } => drop(multiplied.insert(weight)),
            Op::MoeExperts { experts: ExpertWeights { gate, up, down, .. }, .. } => multiplied.extend([gate, up, down]),
            _ => {}
        }
    }
    let stored = |id: usize| {
        let spec = &plan.weights[id];
        let ranges = spec.rows.iter().map(|range| range.tensor.as_str());
        if spec.rows.is_empty() { vec![spec.name.as_str()] } else { ranges.collect() }
    };
    let looked_up: HashSet<WeightId> = plan.ops.iter().filter_map(lookup).collect();
    let is_taken = |id: &usize| multiplied.contains(&WeightId(*id)) && !routers.contains(&WeightId(*id));
    let (taken, mut others): (Vec<usize>, Vec<usize>) = (0..plan.weights.len()).partition(is_taken);
    // Embeddings that are the output matrix too change with it.
    others.retain(|id| !looked_up.contains(&WeightId(*id)));
    let kept: HashSet<&str> = others.into_iter().flat_map(stored).collect();
    let is_wide = |name: &&str| {
        source
            .describe(name)
            .is_some_and(|desc| matches!(desc.dtype, DType::BF16 | DType::F16) && narrow(&desc).is_some())
    };
    let names = taken.into_iter().flat_map(stored).filter(|name| !kept.contains(name)).filter(is_wide);
    names.map(str::to_owned).collect()
}

fn lookup(op: &Op) -> Option<WeightId> {
    if let Op::EmbedTokens { weight, .. } = *op { Some(weight) } else { None }
}

/// What a tensor in 16 bits becomes, if its rows can be cut into blocks.
fn narrow(desc: &TensorDesc) -> Option<DType> {
    let row_len = desc.shape.last().copied().filter(|len| *len > 0)?;
    [DType::F8E4M3Block128, DType::Q8_0].into_iter().find(|dtype| row_len.is_multiple_of(dtype.block_elements()))
}

fn narrowed(desc: TensorDesc) -> TensorDesc {
    let Some(dtype) = narrow(&desc) else { return desc };
    TensorDesc { num_bytes: desc.num_bytes / 2 / dtype.block_elements() * dtype.block_bytes(), dtype, ..desc }
}

impl WeightSource for Fp8Weights {
    fn describe(&self, name: &str) -> Option<TensorDesc> {
        let desc = self.inner.describe(name)?;
        Some(if self.tensors.contains(name) { narrowed(desc) } else { desc })
    }

    fn read_rows(&self, name: &str, rows: Range<usize>, out: &mut [u8]) -> Result<(), WeightError> {
        let Some(desc) = self.inner.describe(name).filter(|_| self.tensors.contains(name)) else {
            return self.inner.read_rows(name, rows, out);
        };
        let mut stored = vec![0; desc.row_bytes() * rows.len()];
        self.inner.read_rows(name, rows, &mut stored)?;
        let narrow = narrow(&desc).unwrap_or(DType::Q8_0);
        let mut values = vec![0.0; narrow.block_elements()];
        let blocks = out.chunks_exact_mut(narrow.block_bytes());
        for (block, stored) in blocks.zip(stored.chunks_exact(2 * narrow.block_elements())) {
            dequantise_into(desc.dtype, stored, &mut values);
            if narrow == DType::Q8_0 { encode_q8_0(&values, block) } else { encode_fp8(&values, block) }
        }
        Ok(())
    }
}

/// One block: its scale in f32, then the codes. What is no number stays none.
fn encode_fp8(values: &[f32], block: &mut [u8]) {
    let greatest = greatest(values);
    let scale = if greatest > 0.0 { greatest / GREATEST } else { 1.0 };
    let (head, codes) = block.split_at_mut(size_of::<f32>());
    head.copy_from_slice(&scale.to_le_bytes());
    for (code, value) in codes.iter_mut().zip(values) {
        let magnitude = if value.is_nan() { 0x7f } else { e4m3_from_f32((value / scale).abs()) };
        *code = magnitude | if value.is_sign_negative() { 0x80 } else { 0 };
    }
}

/// One block: its scale in f16, then whole numbers. A block with what is no finite number becomes none at all, by its scale.
fn encode_q8_0(values: &[f32], block: &mut [u8]) {
    let is_finite = values.iter().all(|value| value.is_finite());
    let scale = if is_finite { f16::from_f32(greatest(values) / 127.0) } else { f16::NAN };
    let (head, codes) = block.split_at_mut(size_of::<f16>());
    head.copy_from_slice(&scale.to_le_bytes());
    let inverse = if scale > f16::ZERO { 1.0 / scale.to_f32() } else { 0.0 };
    for (code, value) in codes.iter_mut().zip(values) {
        *code = (value * inverse).round_ties_even().clamp(-127.0, 127.0) as i8 as u8;
    }
}

fn greatest(values: &[f32]) -> f32 {
    values.iter().fold(0f32, |greatest, value| greatest.max(value.abs()))
}

#[cfg(test)]
mod tests {
    use kindling_kernels::made_up::plans::{self, PlanBuilder};
    use kindling_kernels::made_up::{MemoryWeights, Rng, relative_error, rows_step};
    use kindling_kernels::{Backend, KvType, Limits, ReferenceBackend, RouteRule, Rows};

    use super::*;

    fn limits() -> Limits {
        Limits {
            max_tokens_per_step: 16,
            max_sequences: 1,
            max_logits_per_step: 16,
            max_context: 16,
            block_size: 16,
            num_blocks: Vec::new(),
            kv_type: KvType::Wide,
            num_threads: 1,
        }
    }

    fn logits(plan: &Plan, weights: &dyn WeightSource) -> Vec<f32> {
        let mut logits = Vec::new();
        let mut model = ReferenceBackend.prepare(plan, weights, &limits(), &mut |_| {}).unwrap();
        model.execute(&rows_step(9, plan.vocab_size, 0), &mut logits).unwrap();
        logits
    }

    #[test]
    fn every_element_is_the_nearest_within_its_block() {
        for dtype in [DType::BF16, DType::F16] {
            let mut weights = MemoryWeights::default();
            weights.random(&mut Rng(3), "weight", (dtype, &[4, 256]), 0.3);
            let mut stored = vec![0; 4 * 512];
            weights.read("weight", &mut stored).unwrap();
            for (stored, index) in stored.chunks_exact(256).zip(0..) {
                let (mut block, mut found, mut expected) = ([0; 132], [0.0; 128], [0.0; 128]);
                dequantise_into(dtype, stored, &mut expected);
                encode_fp8(&expected, &mut block);
                dequantise_into(DType::F8E4M3Block128, &block, &mut found);
                let greatest = expected.iter().fold(0f32, |all, value| all.max(value.abs()));
                for (found, expected) in found.iter().zip(expected) {
                    // Half a step: a sixteenth of the number, or of the smallest that is normal.
                    let most = (expected.abs() / 16.0).max(greatest / GREATEST / 1024.0) * 1.001;
                    assert!((found - expected).abs() <= most, "{dtype} block {index}: {found} for {expected}");
                }
            }
        }
    }

    #[test]
    fn blocks_of_zeros_and_of_what_is_no_number_stay_so() {
        let (mut block, mut found) = ([0; 132], [1.0; 128]);
        encode_fp8(&[0.0; 128], &mut block);
        dequantise_into(DType::F8E4M3Block128, &block, &mut found);
        assert_eq!(found, [0.0; 128]);
        let mut values = [0.0; 128];
        values[..2].copy_from_slice(&[f32::NAN, 1.0]);
        encode_fp8(&values, &mut block);
        dequantise_into(DType::F8E4M3Block128, &block, &mut found);
        assert!(found[0].is_nan() && found[1] == 1.0, "{found:?}");
        let (mut block, mut found) = ([0; 34], [1.0; 32]);
        encode_q8_0(&[0.0; 32], &mut block);
        dequantise_into(DType::Q8_0, &block, &mut found);
        assert_eq!(found, [0.0; 32]);
        encode_q8_0(&values[..32], &mut block);
        dequantise_into(DType::Q8_0, &block, &mut found);
        assert!(found.iter().all(|value| value.is_nan()), "{found:?}");
    }

    #[test]
    fn matrices_change_and_answers_little() {
        // Measured: 1.7e-2 in FP8, 2.7e-3 in whole numbers.
        for (row_len, row_bytes, error) in [(256, 2 * 132, 1e-2..3e-2), (288, 9 * 34, 1e-3..6e-3)] {
            let (plan, weights) = plans::linear(DType::BF16, (40, row_len), true);
            let expected = logits(&plan, &weights);
            let bytes = weights.describe("weight 1").unwrap().num_bytes;
            let weights: Arc<dyn WeightSource> = Arc::new(weights);
            assert_eq!(Remainder::Fp8.effect(&plan, &*weights), (1, (bytes - 40 * row_bytes) as u64));
            let narrow = Remainder::Fp8.apply(&plan, Arc::clone(&weights));
            let found = relative_error(&logits(&plan, &*narrow), &expected);
            assert!(error.contains(&found), "{row_len}: {found}");
            let kept = Remainder::Keep.apply(&plan, weights);
            assert_eq!(logits(&plan, &*kept), expected);
        }
    }

    #[test]
    fn routers_and_lookups_and_short_rows_stay() {
        let mut builder = PlanBuilder::new(8);
        // Looked up only.
        let looked_up = builder.weight(DType::BF16, &[8, 128], 1.0);
        let input = builder.buffer(128, Rows::Tokens);
        builder.plan.ops.push(Op::EmbedTokens { weight: looked_up, output: input });
        let router = builder.weight(DType::BF16, &[8, 128], 1.0);
        let routes = builder.buffer(8, Rows::Tokens);
        let chosen = builder.buffer(8, Rows::Tokens);
        builder.plan.ops.push(Op::Linear { input, weight: router, bias: None, output: routes });
        builder.plan.ops.push(Op::MoeRoute { logits: routes, rule: RouteRule::TopKSoftmax, top_k: 2, output: chosen });
        let short = builder.weight(DType::BF16, &[8, 8], 1.0);
        let output = builder.buffer(8, Rows::Tokens);
        builder.plan.ops.push(Op::Linear { input: chosen, weight: short, bias: None, output });
        let (plan, weights) = builder.finish(output);
        assert_eq!(Remainder::Fp8.effect(&plan, &weights), (0, 0));
    }
}
