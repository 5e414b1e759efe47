//! The product's CPU backend: packed weights, integer dot products, SIMD chosen at run time, a thread pool of its own.
//!
//! A row's result depends on the row alone: not on the batch, the cut into steps, the number of threads, nor on the
//! instruction set. It differs from `reference` by the int8 rounding of activations that meet quantised weights, and by
//! the f16 rounding of keys and values. Recurrent layers are refused.

mod add;
mod attention_stage;
mod buffers;
mod embed_tokens;
mod fuse;
mod gated_activation;
mod gather_logit_rows;
pub mod isa;
mod kv_cache;
mod kv_cache_append;
mod kv_element;
mod lanes;
mod linear;
mod linear_stage;
mod model;
mod moe_experts;
mod moe_route;
mod packed;
mod paged_attention;
mod pool;
mod quantise;
mod rms_norm;
mod rotary;
mod rows;
mod scale;
mod sigmoid_gate_rows;
mod soft_cap;
mod stage;
mod support;

use std::collections::HashSet;
use std::sync::Mutex;

pub use isa::Isa;

use crate::load::{Keeper, WeightHead, hold_weights, load_weights};
use crate::room::Room;
use crate::rotary_frequencies::{rotary_attention_factor, rotary_frequencies};
use crate::{
    Backend, ExpertWeights, Limits, LoadProgress, MemoryUse, Op, Plan, PrepareError, PreparedModel, WeightSource,
    dequantise, validate,
};
use attention_stage::parts_len;
use buffers::Buffers;
use isa::DetectedIsa;
use kv_cache::KvCache;
use model::{CpuModel, KvScales, Weight, Weights};
use moe_experts::MoeRows;
use packed::PackedMatrix;
use paged_attention::Scratch;
use pool::Pool;
use quantise::ActivationBlock;
use rotary::RotaryAngles;

/// The CPU backend for one instruction set.
#[derive(Debug, Clone, Copy)]
pub struct CpuBackend {
    isa: DetectedIsa,
    fills: bool,
}

impl CpuBackend {
    /// The fastest instruction set of this machine.
    pub fn new() -> Self {
        Self { isa: DetectedIsa::best(), fills: false }
    }

    /// A given instruction set, or `None` if this machine lacks it. For tests and comparisons.
    pub fn with_isa(isa: Isa) -> Option<Self> {
        DetectedIsa::new(isa).map(|isa| Self { isa, fills: false })
    }

    /// The same, but cache and activations are in memory once a model is prepared, as weights are, and not only when they
    /// are used: who has been promised memory finds out at the start whether it is there, and so do all others.
    #[must_use]
    pub fn filling(self) -> Self {
        Self { fills: true, ..self }
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
        support::check(plan)?;
        let room = Room::real();
        let work_room = if self.fills { Room::filled(limits.num_threads) } else { Room::real() };
        let keeper = Repack::new(plan, &room);
        let weights = Weights(load_weights(plan, weights, limits.num_threads, progress, &keeper)?);
        let rotaries = plan
            .rotaries
            .iter()
            .map(|spec| {
                let factors = spec.frequency_factors.map(|id| weights.vector(id));
                RotaryAngles::new(rotary_frequencies(spec, factors), spec.style, rotary_attention_factor(spec))
            })
            .collect();
        let Work { caches, scratch, buffers, quantised, moe, parts } =
            Work::new((plan, &weights, limits), (&work_room, &work_room))?;
        let pool = Pool::new(limits.num_threads)
            .map_err(|source| PrepareError::Threads { num_threads: limits.num_threads, source })?;
        Ok(Box::new(CpuModel {
            isa: self.isa,
            stages: fuse::fuse(plan),
            rotaries,
            caches,
            buffers,
            quantised,
            scratch,
            moe,
            parts,
            kv_scales: KvScales::new(plan, &weights),
            pool,
            weights,
            plan: plan.clone(),
            limits: limits.clone(),
        }))
    }

    fn predict(&self, plan: &Plan, weights: &dyn WeightSource, limits: &Limits) -> Result<MemoryUse, PrepareError> {
        validate::validate(plan, limits)?;
        support::check(plan)?;
        let [for_weights, for_cache, for_activations] = [Room::counted(), Room::counted(), Room::counted()];
        let weights = Weights(hold_weights(plan, weights, &Repack::new(plan, &for_weights))?);
        Work::new((plan, &weights, limits), (&for_cache, &for_activations))?;
        Ok(MemoryUse {
            weight_bytes: for_weights.num_bytes(),
            kv_cache_bytes: for_cache.num_bytes(),
            activation_bytes: for_activations.num_bytes(),
        })
    }
}

/// What a model takes beside its weights.
struct Work {
    caches: Vec<KvCache>,
    scratch: Vec<Mutex<Scratch>>,
    buffers: Buffers,
    quantised: Vec<ActivationBlock>,
    moe: MoeRows,
    parts: Vec<f32>,
}

impl Work {
    /// The cache comes from the first room, all else from the second.
    fn new(
        (plan, weights, limits): (&Plan, &Weights, &Limits),
        (for_cache, room): (&Room, &Room),
    ) -> Result<Self, PrepareError> {
        let groups = plan.cache_groups.iter().zip(&limits.num_blocks);
        let caches = groups
            .map(|(spec, num_blocks)| KvCache::new(spec, limits.kv_type, limits.block_size, *num_blocks, for_cache))
            .collect::<Result<Vec<_>, _>>()?;
        let scratch = (0..limits.num_threads)
            .map(|_| Scratch::new(caches.iter().map(KvCache::layout), room).map(Mutex::new))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            buffers: Buffers::new(plan, limits, room)?,
            quantised: room.zeroes(quantised_blocks(plan, weights, limits), "quantised activations")?,
            moe: MoeRows::new(plan, limits, room)?,
            parts: room.zeroes(parts_len(plan, limits), "parts of attention")?,
            scratch,
            caches,
        })
    }
}

/// Repacks matrices, dequantises anything else.
struct Repack<'a> {
    /// Names of the weights that are multiplied with.
    matrices: HashSet<&'a str>,
    room: &'a Room,
}

impl<'a> Repack<'a> {
    fn new(plan: &'a Plan, room: &'a Room) -> Self {
        let matrices = plan.ops.iter().flat_map(|op| match *op {
            Op::EmbedTokens { weight, .. } | Op::Linear { weight, .. } => vec![weight],
            Op::MoeExperts { experts: ExpertWeights { gate, up, down, .. }, .. } => vec![gate, up, down],
            _ => Vec::new(),
        });
        Self { matrices: matrices.map(|id| plan.weights[id.0].name.as_str()).collect(), room }
    }
}

impl Keeper for Repack<'_> {
    type Held = Weight;

    fn begin(&self, head: WeightHead<'_>) -> Result<Weight, PrepareError> {
        if self.matrices.contains(head.spec.name.as_str()) {
            return PackedMatrix::new(head, self.room).map(Weight::Matrix);
        }
        let WeightHead { spec, dtype, row_scales } = head;
        let (count, row_len) = (spec.num_rows().checked_mul(spec.row_len()), spec.row_len());
        Ok(Weight::Vector { values: self.room.zeroes(count, "a vector")?, dtype, row_len, row_scales })
    }

    fn rows(&self, held: &mut Weight, first_row: usize, bytes: &[u8]) {
        match held {
            Weight::Matrix(matrix) => matrix.place_rows(first_row, bytes),
            Weight::Vector { values, dtype, row_len, row_scales } => {
                let rows = values.chunks_exact_mut(*row_len).enumerate().skip(first_row);
                for ((row, values), bytes) in rows.zip(bytes.chunks_exact(dtype.bytes_for(*row_len).unwrap_or(1))) {
                    dequantise::dequantise_into(*dtype, bytes, values);
                    let scale = row_scales.as_ref().map_or(1.0, |scales| scales[row]);
                    values.iter_mut().for_each(|value| *value *= scale);
                }
            }
        }
    }
}

/// Room for the input of the widest linear layer of an integer family, or of the experts.
fn quantised_blocks(plan: &Plan, weights: &Weights, limits: &Limits) -> Option<usize> {
    let widths = plan.ops.iter().filter_map(|op| match op {
        Op::Linear { weight, .. } => Some(weights.matrix(*weight)),
        _ => None,
    });
    let widest = widths.filter(|matrix| matrix.is_int()).map(|matrix| matrix.row_len.div_ceil(32)).max().unwrap_or(0);
    let linear = limits.max_tokens_per_step.max(limits.max_logits_per_step).checked_mul(widest);
    let mut experts = plan.ops.iter().map(|op| moe_experts::quantised_blocks(op, weights, limits));
    experts.try_fold(linear?, |most, blocks| Some(most.max(blocks?)))
}
