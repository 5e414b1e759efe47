//! What the backend that would compute a model says it would hold.

use std::sync::Arc;
use std::thread::available_parallelism;

use kindling_cuda::CudaBackend;
use kindling_envelope::{Activations, BLOCK_TOKENS, Bytes, CacheLayers, Device, KvDtype, Model, Serving};
use kindling_kernels::{
    Backend, CacheGroupKind, CacheGroupSpec, CpuBackend, KvType, Limits, MemoryUse, Plan, PrepareError, WeightSource,
};
use kindling_models::Remainder;

/// Tokens and sequences that the slopes of the activations are taken over: whole lanes, so that nothing is rounded.
const STEP: usize = 64;

/// A plan, and what describes its weights.
pub(crate) struct Lowered {
    plan: Plan,
    weights: Arc<dyn WeightSource>,
    largest_tensor: Bytes,
}

/// Why no prediction could be made.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The backend refused.
    #[error("predict what the model takes")]
    Backend(#[from] PrepareError),
    /// A figure that no machine has.
    #[error("{what} {figure} is too large for this machine")]
    TooLarge {
        /// Which figure.
        what: &'static str,
        /// Its value.
        figure: u64,
    },
}

impl Lowered {
    pub(crate) fn new(plan: Plan, weights: Arc<dyn WeightSource>, largest_tensor: Bytes) -> Self {
        Self { plan, weights, largest_tensor }
    }

    /// With other types for what is stored in 16 bits; and how many tensors that are.
    pub(crate) fn with_remainder(self, remainder: Remainder) -> (Self, usize) {
        let (num_changed, _) = remainder.effect(&self.plan, &*self.weights);
        let weights = remainder.apply(&self.plan, self.weights);
        (Self { weights, ..self }, num_changed)
    }

    /// What all layers keep, by kind.
    pub(crate) fn cache(&self) -> Vec<CacheLayers> {
        self.plan.cache_groups.iter().map(cache_layers).collect()
    }

    /// What the device's backend lacks to compute it, if anything.
    pub(crate) fn refused_by(&self, device: Device) -> Option<String> {
        let least = Limits {
            max_tokens_per_step: 1,
            max_sequences: 1,
            max_logits_per_step: 1,
            max_context: 1,
            block_size: BLOCK_TOKENS as usize,
            num_blocks: vec![1; self.plan.cache_groups.len()],
            kv_type: KvType::Wide,
            num_threads: 1,
        };
        match self.predict(device, &least) {
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        }
    }

    /// What the device's backend would hold. None of them needs the device itself to say so.
    fn predict(&self, device: Device, limits: &Limits) -> Result<MemoryUse, PrepareError> {
        let backend: &dyn Backend = match device {
            Device::Cpu => &CpuBackend::new(),
            Device::Cuda => &CudaBackend::new(),
        };
        backend.predict(&self.plan, self.weights.as_ref(), limits)
    }

    /// The model as the device's backend would hold it, or `None` if it lacks something.
    pub(crate) fn planned(&self, serving: &Serving, threads: Option<usize>) -> Result<Option<Model>, PlanError> {
        let threads = threads.unwrap_or_else(|| available_parallelism().map_or(1, std::num::NonZero::get));
        let limits = self.limits(serving, threads)?;
        let predict = |limits: &Limits| self.predict(serving.device, limits);
        let exact = match predict(&limits) {
            Err(PrepareError::Unsupported { .. }) => return Ok(None),
            predicted => predicted?,
        };
        Ok(Some(Model {
            weights: Bytes(exact.weight_bytes as u64),
            largest_tensor: self.largest_tensor,
            vocabulary: Some(self.plan.vocab_size as u64),
            cache: self.cache(),
            activations: activations(&limits, exact, &predict)?,
            max_context: self.plan.max_position as u64,
        }))
    }

    /// What the runtime would ask for. The cache is left to [`CacheLayers`], so that one block of each group is enough.
    fn limits(&self, serving: &Serving, num_threads: usize) -> Result<Limits, PlanError> {
        let figure = |what, figure: u64| usize::try_from(figure).map_err(|_| PlanError::TooLarge { what, figure });
        let max_sequences = figure("the concurrency", serving.concurrency)?;
        let pool = serving.pool_tokens().div_ceil(BLOCK_TOKENS).saturating_mul(BLOCK_TOKENS);
        Ok(Limits {
            max_tokens_per_step: figure("the number of tokens in a step", serving.max_batched_tokens)?,
            max_sequences,
            max_logits_per_step: max_sequences,
            max_context: figure("the context", serving.context.min(pool))?,
            block_size: BLOCK_TOKENS as usize,
            num_blocks: vec![1; self.plan.cache_groups.len()],
            kv_type: match serving.kv_dtype {
                KvDtype::Bf16 => KvType::Wide,
                KvDtype::Fp8 => KvType::F8E4M3,
            },
            num_threads,
        })
    }
}

/// Slopes over a step more of tokens and of sequences; what is left is fixed, so that the sum is exact where it was asked.
fn activations(
    limits: &Limits,
    exact: MemoryUse,
    predict: &dyn Fn(&Limits) -> Result<MemoryUse, PrepareError>,
) -> Result<Activations, PlanError> {
    let (tokens, logits) = (limits.max_tokens_per_step, limits.max_logits_per_step);
    let more_tokens = predict(&Limits { max_tokens_per_step: tokens + STEP, ..limits.clone() })?.activation_bytes;
    // Room for a step's rows of one kind is room for those of the other, where they are not needed at once: a step of
    // tokens more keeps logits from being the larger.
    let longer = Limits { max_tokens_per_step: tokens + STEP, max_logits_per_step: logits + STEP, ..limits.clone() };
    let more_logits = predict(&longer)?.activation_bytes;
    let per_token = (more_tokens.saturating_sub(exact.activation_bytes) / STEP) as u64;
    let per_sequence = (more_logits.saturating_sub(more_tokens) / STEP) as u64;
    let sloped = per_token.saturating_mul(tokens as u64).saturating_add(per_sequence.saturating_mul(logits as u64));
    // Never below what is needed: nothing would be saturated but for slopes that are too steep.
    let fixed = (exact.activation_bytes as u64).saturating_sub(sloped);
    Ok(Activations::Planned { fixed: Bytes(fixed), per_token: Bytes(per_token), per_sequence: Bytes(per_sequence) })
}

fn cache_layers(group: &CacheGroupSpec) -> CacheLayers {
    let (layers, kv_heads, head_dim) = (group.num_layers as u64, group.num_kv_heads as u64, group.head_dim as u64);
    match group.kind {
        CacheGroupKind::Full => CacheLayers::Full { layers, kv_heads, head_dim },
        CacheGroupKind::Window { window } => CacheLayers::Window { layers, kv_heads, head_dim, window: window as u64 },
        CacheGroupKind::Recurrent { state_len } => CacheLayers::State { layers, elements: state_len as u64 },
    }
}
