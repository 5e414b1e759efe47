//! Perplexity of a text, as llama.cpp's `llama-perplexity` defines it, so that figures can be compared.
//!
//! The text's tokens are cut into chunks of 512, each computed for itself; only the second half of a chunk counts, so
//! that every counted token has at least 256 before it. Where the tokenizer begins texts with a token, that token takes
//! the place of each chunk's first. Called by `kindling quantize --eval` and tests.

use std::ops::Range;
use std::sync::Arc;

use kindling_kernels::dequantise::dequantise_into;
use kindling_kernels::{
    Backend, DType, ExecuteError, KvType, Limits, Plan, PrepareError, PreparedModel, Step, StepSequence, TensorDesc,
    TensorScale, WeightError, WeightSource,
};

use crate::open::OpenModel;
use crate::tokenizer::TokenizerError;

/// Tokens of a chunk.
pub const CHUNK: usize = 512;
/// The first position of a chunk whose prediction counts.
const FIRST: usize = CHUNK / 2;
const BLOCK_SIZE: usize = 16;

/// What a text comes out at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Perplexity {
    /// The exponential of the mean negative log-probability.
    pub value: f64,
    /// One standard error of it.
    pub uncertainty: f64,
    /// Whole chunks of the text.
    pub num_chunks: usize,
    /// Predictions that count.
    pub num_tokens: usize,
}

/// Why there is no figure.
#[derive(Debug, thiserror::Error)]
pub enum PerplexityError {
    /// The text cannot be encoded.
    #[error("encode the text")]
    Tokenizer(#[from] TokenizerError),
    /// Too little for one figure.
    #[error("the text has {num_tokens} tokens, at least {CHUNK} are needed")]
    Short {
        /// That there are.
        num_tokens: usize,
    },
    /// The backend cannot take the model.
    #[error("prepare the model")]
    Prepare(#[from] PrepareError),
    /// A step failed.
    #[error("compute a chunk")]
    Execute(#[from] ExecuteError),
    /// Somebody asked to stop.
    #[error("interrupted")]
    Interrupted,
}

/// How it is computed.
pub struct PerplexityOptions<'a> {
    /// By whom.
    pub backend: &'a dyn Backend,
    /// Threads to compute with.
    pub num_threads: usize,
    /// At most so many chunks.
    pub max_chunks: usize,
    /// Whether all weights are given to the backend as F32: for types that it lacks.
    pub as_f32: bool,
    /// Asked before each chunk.
    pub stop: &'a dyn Fn() -> bool,
}

/// Computes the perplexity of a text; `progress` is told of chunks done and in all.
///
/// # Errors
/// [`PerplexityError`].
pub fn perplexity(
    model: &OpenModel,
    text: &str,
    options: &PerplexityOptions<'_>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Perplexity, PerplexityError> {
    let tokens = model.tokenizer.encode(text, true, false)?;
    let beginning = model.tokenizer.encode("", true, false)?.first().copied();
    let num_chunks = (tokens.len() / CHUNK).min(options.max_chunks);
    if num_chunks == 0 {
        return Err(PerplexityError::Short { num_tokens: tokens.len() });
    }
    let plan = model.spec.lower();
    let weights: Arc<dyn WeightSource> =
        if options.as_f32 { Arc::new(AsF32(Arc::clone(&model.weights))) } else { Arc::clone(&model.weights) };
    let mut prepared = options.backend.prepare(&plan, &*weights, &limits(&plan, options.num_threads), &mut |_| ())?;
    let mut losses = Vec::with_capacity(num_chunks * (CHUNK - FIRST - 1));
    for (index, chunk) in tokens.chunks_exact(CHUNK).take(num_chunks).enumerate() {
        if (options.stop)() {
            return Err(PerplexityError::Interrupted);
        }
        let mut chunk = chunk.to_vec();
        if let Some(beginning) = beginning {
            chunk[0] = beginning;
        }
        chunk_losses(&plan, &mut *prepared, &chunk, &mut losses)?;
        progress(index + 1, num_chunks);
    }
    Ok(summary(&losses, num_chunks))
}

fn limits(plan: &Plan, num_threads: usize) -> Limits {
    Limits {
        max_tokens_per_step: CHUNK,
        max_sequences: 1,
        max_logits_per_step: CHUNK - FIRST,
        max_context: CHUNK,
        block_size: BLOCK_SIZE,
        num_blocks: vec![CHUNK / BLOCK_SIZE; plan.cache_groups.len()],
        kv_type: KvType::Wide,
        num_threads,
    }
}

fn chunk_losses(
    plan: &Plan,
    prepared: &mut dyn PreparedModel,
    chunk: &[u32],
    losses: &mut Vec<f64>,
) -> Result<(), PerplexityError> {
    let table: Vec<u32> = (0..(CHUNK / BLOCK_SIZE) as u32).collect();
    let step = Step {
        token_ids: chunk.to_vec(),
        positions: (0..CHUNK as u32).map(|position| [position; 3]).collect(),
        sequences: vec![StepSequence {
            query_start: 0,
            query_len: CHUNK,
            context_len: 0,
            block_tables: vec![table; plan.cache_groups.len()],
        }],
        // The last position predicts a token of the next chunk.
        logit_indices: (FIRST..CHUNK - 1).collect(),
        ..Step::default()
    };
    let mut logits = Vec::new();
    prepared.execute(&step, &mut logits)?;
    for (logits, token) in logits.chunks_exact(plan.vocab_size).zip(&chunk[FIRST + 1..]) {
        let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|logit| f64::from(logit - greatest).exp()).sum();
        losses.push(sum.ln() - f64::from(logits[*token as usize] - greatest));
    }
    Ok(())
}

fn summary(losses: &[f64], num_chunks: usize) -> Perplexity {
    let count = losses.len() as f64;
    let mean = losses.iter().sum::<f64>() / count;
    let variance = losses.iter().map(|loss| (loss - mean).powi(2)).sum::<f64>() / (count - 1.0);
    let value = mean.exp();
    let uncertainty = value * (variance / count).sqrt();
    Perplexity { value, uncertainty, num_chunks, num_tokens: losses.len() }
}

/// Another source's weights, dequantised and scaled.
struct AsF32(Arc<dyn WeightSource>);

impl WeightSource for AsF32 {
    fn describe(&self, name: &str) -> Option<TensorDesc> {
        let desc = self.0.describe(name)?;
        let num_bytes = desc.shape.iter().product::<usize>() * size_of::<f32>();
        Some(TensorDesc { dtype: DType::F32, num_bytes, scale: TensorScale::One, ..desc })
    }

    fn read_rows(&self, name: &str, rows: Range<usize>, out: &mut [u8]) -> Result<(), WeightError> {
        let desc = self.0.describe(name).ok_or_else(|| WeightError::Missing { name: name.to_owned() })?;
        let mut stored = vec![0; rows.len() * desc.row_bytes()];
        self.0.read_rows(name, rows.clone(), &mut stored)?;
        let mut values = vec![0.0; out.len() / size_of::<f32>()];
        dequantise_into(desc.dtype, &stored, &mut values);
        let row_len = values.len() / rows.len().max(1);
        for (index, (value, out)) in values.iter().zip(out.as_chunks_mut::<4>().0).enumerate() {
            let factor = match &desc.scale {
                TensorScale::One => 1.0,
                TensorScale::Tensor(factor) => *factor,
                TensorScale::Rows(factors) => factors[rows.start + index / row_len],
            };
            *out = (value * factor).to_le_bytes();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_is_taken_before_the_exponential() {
        let losses = [2f64.ln(), 8f64.ln()];
        let perplexity = summary(&losses, 1);
        assert!((perplexity.value - 4.0).abs() < 1e-12);
        // The standard error of the two logarithms is half their distance.
        assert!((perplexity.uncertainty - 4.0 * 2f64.ln()).abs() < 1e-12, "{perplexity:?}");
    }
}
