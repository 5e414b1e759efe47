//! The backend for GPUs: eager, one kernel after another.

use std::sync::{Arc, OnceLock};

use kindling_kernels::{
    Backend, CacheGroupKind, KvType, Limits, LoadProgress, MemoryUse, Op, Plan, PrepareError, PreparedModel,
    WeightSource, validate,
};

use crate::activations::ActivationPlaces;
use crate::driver::{GpuError, Loaded, probe};
use crate::kv_cache::{KvCaches, KvPlaces};
use crate::memory::Region;
use crate::model::CudaModel;
use crate::timing::OpTimes;
use crate::weights::{Layout, Weights};

/// Elements of a head that the attention kernel has room for.
const MAX_HEAD_DIM: usize = 512;

/// Computes on one device.
#[derive(Default)]
pub struct CudaBackend {
    /// Once it is there.
    loaded: OnceLock<Arc<Loaded>>,
    times: Option<OpTimes>,
}

impl CudaBackend {
    /// On the driver's first device; nobody asks the driver before a model is prepared.
    pub fn new() -> Self {
        Self::default()
    }

    /// On a device that has the kernels.
    pub fn on(loaded: Loaded) -> Self {
        Self { loaded: OnceLock::from(Arc::new(loaded)), times: None }
    }

    /// The same, but the device's time for each op is added to `times`.
    #[must_use]
    pub fn timed(self, times: &OpTimes) -> Self {
        Self { times: Some(times.clone()), ..self }
    }

    fn loaded(&self) -> Result<&Arc<Loaded>, GpuError> {
        if let Some(loaded) = self.loaded.get() {
            return Ok(loaded);
        }
        let gpu = probe()?.into_iter().next().ok_or(GpuError::NoDevice)?;
        let loaded = Arc::new(gpu.load()?);
        Ok(self.loaded.get_or_init(|| loaded))
    }
}

impl Backend for CudaBackend {
    fn name(&self) -> &'static str {
        "cuda"
    }

    fn kernels(&self) -> Vec<String> {
        ["linear: bf16 mma", "paged_attention: by spans of 256"].map(str::to_owned).to_vec()
    }

    fn prepare(
        &self,
        plan: &Plan,
        weights: &dyn WeightSource,
        limits: &Limits,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Box<dyn PreparedModel>, PrepareError> {
        check(plan, limits)?;
        let places = Places::new(plan, weights, limits)?;
        let loaded = self.loaded().map_err(GpuError::preparing)?;
        let take = |num_bytes, what: &'static str| {
            Region::new(&loaded.context, num_bytes, what).map_err(|error| match error {
                GpuError::NoMemory { .. } => PrepareError::Memory { what, num_bytes },
                error => error.preparing(),
            })
        };
        let region = take(places.weights.num_bytes, "weights")?;
        let caches = KvCaches::new(places.caches, take(places.kv_bytes, "the KV cache")?);
        let activations = take(places.activations.num_bytes, "activations")?;
        let weights = Weights::load((plan, weights, limits.num_threads), places.weights, region, progress)?;
        let model = CudaModel::new((loaded, plan, limits), weights, caches, (places.activations, activations));
        let mut model = model.map_err(GpuError::preparing)?;
        model.times.clone_from(&self.times);
        Ok(Box::new(model))
    }

    fn predict(&self, plan: &Plan, weights: &dyn WeightSource, limits: &Limits) -> Result<MemoryUse, PrepareError> {
        check(plan, limits)?;
        let places = Places::new(plan, weights, limits)?;
        Ok(MemoryUse {
            weight_bytes: places.weights.num_bytes,
            kv_cache_bytes: places.kv_bytes,
            activation_bytes: places.activations.num_bytes,
        })
    }
}

/// Where everything will be.
struct Places {
    weights: Layout,
    caches: Vec<KvPlaces>,
    kv_bytes: usize,
    activations: ActivationPlaces,
}

impl Places {
    fn new(plan: &Plan, weights: &dyn WeightSource, limits: &Limits) -> Result<Self, PrepareError> {
        let refused = |what| PrepareError::Memory { what, num_bytes: usize::MAX };
        let mut kv = crate::memory::Places::default();
        let groups = plan.cache_groups.iter().zip(&limits.num_blocks);
        let caches = groups.map(|(group, num_blocks)| KvPlaces::new(group, (limits, *num_blocks), &mut kv));
        let caches = caches.collect::<Option<_>>().ok_or_else(|| refused("the KV cache"))?;
        Ok(Self {
            weights: Layout::new(plan, weights)?,
            caches,
            kv_bytes: kv.num_bytes(),
            activations: ActivationPlaces::new(plan, limits).ok_or_else(|| refused("activations"))?,
        })
    }
}

/// Refuses what the kernels lack, before anything is read.
fn check(plan: &Plan, limits: &Limits) -> Result<(), PrepareError> {
    validate::validate(plan, limits)?;
    let unsupported = |what: String| Err(PrepareError::Unsupported { backend: "cuda", what });
    if plan.cache_groups.iter().any(|group| matches!(group.kind, CacheGroupKind::Recurrent { .. })) {
        return unsupported("recurrent layers".to_owned());
    }
    if let Some(group) = plan.cache_groups.iter().find(|group| group.head_dim > MAX_HEAD_DIM) {
        return unsupported(format!("heads of {} elements", group.head_dim));
    }
    let lacking = plan.ops.iter().find(|op| matches!(op, Op::CausalConv { .. } | Op::GatedDeltaRule { .. }));
    lacking.map_or(Ok(()), |op| unsupported(format!("the op {}", op.name())))
}

/// As in the names of kernels.
pub(crate) const fn kept_name(kv_type: KvType) -> &'static str {
    match kv_type {
        KvType::Wide => "bf16",
        KvType::F8E4M3 => "fp8",
    }
}
