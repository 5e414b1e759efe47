//! The product's CPU backend: packed weights, integer dot products, SIMD chosen at run time, a thread pool of its own.
//!
//! A row's result depends on the row alone: not on the batch, the cut into steps, the number of threads, nor on the
//! instruction set. It differs from `reference` by the int8 rounding of activations that meet quantised weights, and by
//! the f16 rounding of keys and values.

mod add;
mod buffers;
mod embed_tokens;
mod fuse;
mod gated_activation;
mod gather_logit_rows;
pub mod isa;
mod kv_cache;
mod kv_cache_append;
mod lanes;
mod linear;
mod linear_stage;
mod model;
mod packed;
mod paged_attention;
mod pool;
mod quantise;
mod rms_norm;
mod rotary;
mod rows;
mod stage;

use std::sync::Mutex;

pub use isa::Isa;

use crate::load::{StoredTensor, load_weights, zeroes};
use crate::rotary_frequencies::rotary_frequencies;
use crate::{Backend, Limits, LoadProgress, Op, Plan, PrepareError, PreparedModel, WeightSource, dequantise, validate};
use buffers::Buffers;
use isa::DetectedIsa;
use kv_cache::KvCache;
use model::{CpuModel, Weight, Weights};
use packed::PackedMatrix;
use paged_attention::scratch_tiles;
use pool::Pool;
use rotary::RotaryAngles;

/// The CPU backend for one instruction set.
#[derive(Debug, Clone, Copy)]
pub struct CpuBackend {
    isa: DetectedIsa,
}

impl CpuBackend {
    /// The fastest instruction set of this machine.
    pub fn new() -> Self {
        Self { isa: DetectedIsa::best() }
    }

    /// A given instruction set, or `None` if this machine lacks it. For tests and comparisons.
    pub fn with_isa(isa: Isa) -> Option<Self> {
        DetectedIsa::new(isa).map(|isa| Self { isa })
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa.isa()
    }
}

impl Default for CpuBackend {
    fn default() -> Self {
        Self::new()
    }
}

impl Backend for CpuBackend {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn kernels(&self) -> Vec<String> {
        ["linear", "paged_attention", "rms_norm", "gated_activation"].map(|op| format!("{op}: {}", self.isa())).to_vec()
    }

    fn prepare(
        &self,
        plan: &Plan,
        weights: &dyn WeightSource,
        limits: &Limits,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Box<dyn PreparedModel>, PrepareError> {
        validate::validate(plan, limits)?;
        let mut held = Vec::with_capacity(plan.weights.len());
        load_weights(plan, weights, progress, |stored| {
            held.push(keep(&stored)?);
            Ok(())
        })?;
        let weights = Weights(held);
        let rotaries = plan
            .rotaries
            .iter()
            .map(|spec| {
                let factors = spec.frequency_factors.map(|id| weights.vector(id));
                RotaryAngles::new(rotary_frequencies(spec, factors), spec.style)
            })
            .collect();
        let caches = plan.cache_groups.iter().map(|spec| KvCache::new(spec, limits)).collect::<Result<Vec<_>, _>>()?;
        let scratch = (0..limits.num_threads)
            .map(|_| zeroes(scratch_tiles(limits), "attention scores").map(Mutex::new))
            .collect::<Result<_, _>>()?;
        let pool = Pool::new(limits.num_threads)
            .map_err(|source| PrepareError::Threads { num_threads: limits.num_threads, source })?;
        Ok(Box::new(CpuModel {
            isa: self.isa,
            stages: fuse::fuse(plan),
            rotaries,
            caches,
            buffers: Buffers::new(plan, limits)?,
            quantised: zeroes(quantised_blocks(plan, &weights, limits), "quantised activations")?,
            scratch,
            pool,
            weights,
            plan: plan.clone(),
            limits: limits.clone(),
        }))
    }
}

/// Repacks a matrix, dequantises anything else.
fn keep(stored: &StoredTensor<'_>) -> Result<Weight, PrepareError> {
    if stored.spec.shape.len() == 2 {
        return PackedMatrix::new(stored).map(Weight::Matrix);
    }
    let elements = stored.spec.shape.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
    let mut values = zeroes(elements, "a vector")?;
    dequantise::dequantise_into(stored.dtype, stored.bytes, &mut values);
    Ok(Weight::Vector(values))
}

/// Room for the input of the widest linear layer of an integer family.
fn quantised_blocks(plan: &Plan, weights: &Weights, limits: &Limits) -> Option<usize> {
    let widths = plan.ops.iter().filter_map(|op| match op {
        Op::Linear { weight, .. } => Some(weights.matrix(*weight)),
        _ => None,
    });
    let widest = widths.filter(|matrix| matrix.is_int()).map(|matrix| matrix.row_len / 32).max().unwrap_or(0);
    limits.max_tokens_per_step.max(limits.max_logits_per_step).checked_mul(widest)
}
