//! A plan that is ready to run: packed weights, cache, activations, threads.
#![allow(unsafe_code)]

use std::sync::{Mutex, PoisonError};

use super::buffers::Buffers;
use super::fuse::Stage;
use super::isa::DetectedIsa;
use super::kv_cache::KvCache;
use super::moe_experts::MoeRows;
use super::packed::PackedMatrix;
use super::paged_attention::Scratch;
use super::pool::Pool;
use super::quantise::ActivationBlock;
use super::rotary::RotaryAngles;
use crate::resident::{Extent, PageMap, total};
use crate::{CacheGroupId, DType, ExecuteError, Limits, MemoryUse, Op, Plan, PreparedModel, Step, WeightId};

/// One weight as held.
pub(super) enum Weight {
    /// For linear layers and embeddings.
    Matrix(PackedMatrix),
    /// Norms and biases, as f32.
    Vector {
        /// Dequantised.
        values: Vec<f32>,
        /// As stored.
        dtype: DType,
        /// Elements of a stored row.
        row_len: usize,
        /// Scales of its rows.
        row_scales: Option<Vec<f32>>,
    },
}

/// The weights of a plan, by id.
pub(super) struct Weights(pub Vec<Weight>);

impl Weights {
    /// A weight that the plan uses as a matrix.
    pub fn matrix(&self, id: WeightId) -> &PackedMatrix {
        match &self.0[id.0] {
            Weight::Matrix(matrix) => matrix,
            Weight::Vector { .. } => unreachable!("validate should have refused a vector as a matrix"),
        }
    }

    /// A weight that the plan uses as a vector.
    pub fn vector(&self, id: WeightId) -> &[f32] {
        match &self.0[id.0] {
            Weight::Vector { values, .. } => values,
            Weight::Matrix(_) => unreachable!("validate should have refused a matrix as a vector"),
        }
    }

    /// Where they lie.
    pub fn extents(&self) -> Vec<Extent> {
        let extents = |weight: &Weight| match weight {
            Weight::Matrix(matrix) => matrix.extents(),
            Weight::Vector { values, .. } => vec![Extent::of(values)],
        };
        self.0.iter().flat_map(extents).collect()
    }
}

/// See the module.
pub(super) struct CpuModel {
    pub plan: Plan,
    pub limits: Limits,
    pub isa: DetectedIsa,
    pub stages: Vec<Stage>,
    pub weights: Weights,
    pub rotaries: Vec<RotaryAngles>,
    pub caches: Vec<KvCache>,
    pub kv_scales: KvScales,
    pub buffers: Buffers,
    /// Quantised rows of the stage at work.
    pub quantised: Vec<ActivationBlock>,
    /// For attention, by thread.
    pub scratch: Vec<Mutex<Scratch>>,
    /// Rows of experts.
    pub moe: MoeRows,
    /// Results of attention by chunk, where chunks are tasks of their own.
    pub parts: Vec<f32>,
    pub pool: Pool,
}

/// What the checkpoint says that keys and values of 8 bits are divided by.
pub(super) struct KvScales(Vec<(CacheGroupId, usize, [f32; 2])>);

impl KvScales {
    /// Those of every layer that has some.
    pub fn new(plan: &Plan, weights: &Weights) -> Self {
        let scales = plan.ops.iter().filter_map(|op| match *op {
            Op::KvCacheAppend { group, layer, kv_scales: Some((key, value)), .. } => {
                Some((group, layer, [key, value].map(|id| weights.vector(id)[0])))
            }
            _ => None,
        });
        Self(scales.collect())
    }

    /// Of keys and values; 1 where the checkpoint has none.
    pub fn of(&self, group: CacheGroupId, layer: usize) -> [f32; 2] {
        let found = self.0.iter().find(|(own_group, own_layer, _)| (*own_group, *own_layer) == (group, layer));
        found.map_or([1.0; 2], |(_, _, scales)| *scales)
    }
}

impl PreparedModel for CpuModel {
    fn execute(&mut self, step: &Step, logits: &mut Vec<f32>) -> Result<(), ExecuteError> {
        step.validate(&self.plan, &self.limits)?;
        logits.clear();
        if step.token_ids.is_empty() {
            return Ok(());
        }
        for angles in &mut self.rotaries {
            angles.update(&step.positions);
        }
        for index in 0..self.stages.len() {
            self.execute_stage(index, step);
        }
        let rows = self.buffers.views(step)(self.plan.logits);
        // SAFETY: all tasks are done.
        logits.extend_from_slice(unsafe { rows.rows(0..rows.num_rows) });
        Ok(())
    }

    fn memory(&self) -> MemoryUse {
        let [weight_bytes, kv_cache_bytes, activation_bytes] = self.extents().map(|extents| total(&extents));
        MemoryUse { weight_bytes, kv_cache_bytes, activation_bytes }
    }

    fn resident(&self) -> Option<MemoryUse> {
        let map = PageMap::open()?;
        let [weight_bytes, kv_cache_bytes, activation_bytes] = self.extents().map(|extents| map.resident(&extents));
        Some(MemoryUse {
            weight_bytes: weight_bytes?,
            kv_cache_bytes: kv_cache_bytes?,
            activation_bytes: activation_bytes?,
        })
    }
}

impl CpuModel {
    /// Of weights, cache and activations.
    fn extents(&self) -> [Vec<Extent>; 3] {
        let mut activations = vec![self.buffers.extent(), Extent::of(&self.quantised), Extent::of(&self.parts)];
        activations.extend(self.moe.extents());
        for scratch in &self.scratch {
            // Poisoned or not, it lies where it lies.
            activations.extend(scratch.lock().unwrap_or_else(PoisonError::into_inner).extents());
        }
        [self.weights.extents(), self.caches.iter().flat_map(KvCache::extents).collect(), activations]
    }
}
