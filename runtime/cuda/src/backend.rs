//! The backend for GPUs.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use kindling_kernels::{
    Backend, DeltaNetShape, KvType, Limits, LoadProgress, MemoryUse, Op, Plan, PrepareError, PreparedModel,
    WeightSource, validate,
};

use crate::activations::ActivationPlaces;
use crate::driver::{Gpu, GpuError, Loaded, probe};
use crate::kv_cache::{KvCaches, KvPlaces};
use crate::launch::Activations;
use crate::memory::{Guards, Region};
use crate::model::{CudaModel, kernels};
use crate::selftest::{Check, SelfTests};
use crate::timing::OpTimes;
use crate::weights::{Layout, Weights};

/// Elements of a head that the attention kernel has room for.
const MAX_HEAD_DIM: usize = 512;

/// What the recurrent kernels have room for.
const MAX_TAPS: usize = 8;
const MAX_KEY_DIM: usize = 256;

/// Computes on one device.
#[derive(Default)]
pub struct CudaBackend {
    /// Once it is there.
    loaded: OnceLock<Arc<Loaded>>,
    times: Option<OpTimes>,
    guards: Option<Guards>,
    is_eager: bool,
    activations: Activations,
    self_tests: Option<SelfTests>,
    /// What they found.
    checks: OnceLock<Vec<Check>>,
}

impl CudaBackend {
    /// On the driver's first device; nobody asks the driver before a model is prepared.
    pub fn new() -> Self {
        Self::default()
    }

    /// On a device that has the kernels.
    pub fn on(loaded: Loaded) -> Self {
        Self { loaded: OnceLock::from(Arc::new(loaded)), ..Self::default() }
    }

    /// The same, but the device's time for each op is added to `times`.
    #[must_use]
    pub fn timed(self, times: &OpTimes) -> Self {
        Self { times: Some(times.clone()), ..self }
    }

    /// The same, but its regions are guarded: whether somebody wrote beside them is told when they are given back.
    #[must_use]
    pub fn guarded(self, guards: &Guards) -> Self {
        Self { guards: Some(guards.clone()), ..self }
    }

    /// The same, but without graphs: the driver gets one kernel after another.
    #[must_use]
    pub fn eager(self, is_eager: bool) -> Self {
        Self { is_eager, ..self }
    }

    /// The same, but with other activations.
    #[must_use]
    pub fn activations(self, activations: Activations) -> Self {
        Self { activations, ..self }
    }

    /// The same, but a model is not prepared whose kernels fail on the device.
    #[must_use]
    pub fn tested(self, self_tests: Option<SelfTests>) -> Self {
        Self { self_tests, ..self }
    }

    /// The kernels that a model needs; asks no device.
    ///
    /// # Errors
    /// As [`Backend::predict`].
    pub fn kernels_of(
        &self,
        plan: &Plan,
        weights: &dyn WeightSource,
        limits: &Limits,
    ) -> Result<BTreeSet<String>, PrepareError> {
        check(plan, limits)?;
        Ok(kernels(plan, (&Layout::new(plan, weights)?, self.activations), limits))
    }

    /// Refuses a device that computes wrongly what is needed.
    fn test(&self, gpu: &Gpu, needed: &BTreeSet<String>) -> Result<(), GpuError> {
        let Some(self_tests) = &self.self_tests else { return Ok(()) };
        let checks = match self.checks.get() {
            Some(checks) => checks,
            None => {
                let found = self_tests.run(gpu)?;
                self.checks.get_or_init(|| found)
            }
        };
        Check::wrong(checks, needed).map_or(Ok(()), |(kernel, failure)| {
            Err(GpuError::WrongKernel { name: gpu.name.clone(), kernel: kernel.to_owned(), failure })
        })
    }

    /// The device, which nobody opens for that.
    fn gpu(&self) -> Result<Gpu, GpuError> {
        match self.loaded.get() {
            Some(loaded) => Ok(loaded.gpu.clone()),
            None => probe()?.into_iter().next().ok_or(GpuError::NoDevice),
        }
    }

    fn loaded(&self) -> Result<&Arc<Loaded>, GpuError> {
        if let Some(loaded) = self.loaded.get() {
            return Ok(loaded);
        }
        let loaded = Arc::new(self.gpu()?.load()?);
        Ok(self.loaded.get_or_init(|| loaded))
    }
}

impl Backend for CudaBackend {
    fn name(&self) -> &'static str {
        "cuda"
    }

    fn kernels(&self) -> Vec<String> {
        let decoding = if self.is_eager { "decoding: kernel by kernel" } else { "decoding: graphs" };
        let linear = match self.activations {
            Activations::Bf16 => "linear: bf16 mma",
            Activations::Fp4 => "linear: fp4 mma for NVFP4, bf16 mma",
        };
        [linear, "paged_attention: bf16 mma by spans of 256", decoding].map(str::to_owned).to_vec()
    }

    fn prepare(
        &self,
        plan: &Plan,
        weights: &dyn WeightSource,
        limits: &Limits,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Box<dyn PreparedModel>, PrepareError> {
        check(plan, limits)?;
        let places = Places::new(plan, (weights, self.activations), limits)?;
        let gpu = self.gpu().map_err(GpuError::preparing)?;
        let code = gpu.code().map_err(GpuError::preparing)?;
        let needed = kernels(plan, (&places.weights, self.activations), limits);
        if self.activations == Activations::Fp4 && !code.has_fp4 {
            let what = format!("activations in FP4 on {}, whose code is for {}", gpu.name, code.target);
            return Err(PrepareError::Unsupported { backend: "cuda", what });
        }
        // Before it is opened here: a second context is hundreds of MiB.
        self.test(&gpu, &needed).map_err(GpuError::preparing)?;
        let loaded = self.loaded().map_err(GpuError::preparing)?;
        let take = |num_bytes, what: &'static str| {
            let taken = match &self.guards {
                Some(guards) => Region::guarded(&loaded.context, num_bytes, what, guards.clone()),
                None => Region::new(&loaded.context, num_bytes, what),
            };
            taken.map_err(|error| match error {
                GpuError::NoMemory { .. } => PrepareError::Memory { what, num_bytes },
                error => error.preparing(),
            })
        };
        let region = take(places.weights.num_bytes, "weights")?;
        let caches = KvCaches::new(places.caches, take(places.kv_bytes, "the KV cache")?);
        let activations = take(places.activations.num_bytes, "activations")?;
        let weights = Weights::load((plan, weights, limits.num_threads), places.weights, region, progress)?;
        let model = CudaModel::new(
            (loaded, plan, limits),
            (weights, self.activations),
            caches,
            (places.activations, activations),
        );
        let mut model = model.map_err(GpuError::preparing)?;
        model.times.clone_from(&self.times);
        model.graphs.is_on = !self.is_eager;
        Ok(Box::new(model))
    }

    fn predict(&self, plan: &Plan, weights: &dyn WeightSource, limits: &Limits) -> Result<MemoryUse, PrepareError> {
        check(plan, limits)?;
        let places = Places::new(plan, (weights, self.activations), limits)?;
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
    fn new(
        plan: &Plan,
        (weights, activations): (&dyn WeightSource, Activations),
        limits: &Limits,
    ) -> Result<Self, PrepareError> {
        let refused = |what| PrepareError::Memory { what, num_bytes: usize::MAX };
        let (caches, kv_bytes) = KvPlaces::all(&plan.cache_groups, limits).ok_or_else(|| refused("the KV cache"))?;
        let weights = Layout::new(plan, weights)?;
        let activations = ActivationPlaces::new(plan, limits, (&weights, activations));
        let activations = activations.ok_or_else(|| refused("activations"))?;
        Ok(Self { weights, caches, kv_bytes, activations })
    }
}

/// Refuses what the kernels lack, before anything is read.
fn check(plan: &Plan, limits: &Limits) -> Result<(), PrepareError> {
    validate::validate(plan, limits)?;
    let unsupported = |what: String| Err(PrepareError::Unsupported { backend: "cuda", what });
    if let Some(group) = plan.cache_groups.iter().find(|group| group.head_dim > MAX_HEAD_DIM) {
        return unsupported(format!("heads of {} elements", group.head_dim));
    }
    for op in &plan.ops {
        if let Op::CausalConv { shape, .. } | Op::GatedDeltaRule { shape, .. } = op
            && (shape.conv_kernel > MAX_TAPS || shape.key_dim > MAX_KEY_DIM)
        {
            let DeltaNetShape { conv_kernel, key_dim, .. } = shape;
            return unsupported(format!("recurrent layers with {conv_kernel} taps and keys of {key_dim} elements"));
        }
    }
    Ok(())
}

/// As in the names of kernels.
pub(crate) const fn kept_name(kv_type: KvType) -> &'static str {
    match kv_type {
        KvType::Wide => "bf16",
        KvType::F8E4M3 => "fp8",
    }
}
