//! What a runtime is started with.

use std::path::PathBuf;
use std::thread::available_parallelism;
use std::time::Duration;

use kindling_cuda::{Activations, CudaBackend, SelfTests};
use kindling_kernels::{Backend, CacheGroupKind, CacheGroupSpec, CpuBackend, KvType, Limits, Plan, ReferenceBackend};
use kindling_models::Remainder;

use crate::script::Script;

/// Tokens per KV block: small enough to waste little at the end of a sequence, large enough for short block tables.
pub const BLOCK_SIZE: usize = 16;

/// Longest context that is prepared unasked, in tokens: agents need that much, and more is rarely used but always paid
/// for in KV cache.
pub const DEFAULT_MAX_CONTEXT: usize = 65_536;

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BackendKind {
    /// The fast one for this machine's processor.
    #[default]
    Cpu,
    /// The first NVIDIA GPU.
    Cuda,
    /// The numeric truth: slow.
    Reference,
}

impl BackendKind {
    /// The backend itself. Within a budget it takes all its memory when it starts, so that what was promised is not found
    /// to be missing in the middle of an answer; without, when it is used.
    pub(crate) fn make(self, config: &RuntimeConfig) -> Box<dyn Backend> {
        match self {
            Self::Cpu if config.memory_budget.is_some() => Box::new(CpuBackend::new().filling()),
            Self::Cpu => Box::new(CpuBackend::new()),
            Self::Cuda => {
                let backend = CudaBackend::new().eager(!config.gpu_graphs).activations(config.gpu_activations);
                Box::new(backend.tested(config.self_tests.clone()))
            }
            Self::Reference => Box::new(ReferenceBackend),
        }
    }
}

/// Everything a runtime needs to know before it opens the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeConfig {
    /// A checkpoint: a `.gguf` file, or a folder with safetensors.
    pub model_path: PathBuf,
    /// Name of the model for logs and metrics.
    pub served_name: String,
    /// Tokens that a sequence may have; `None` takes the model's own, at most [`DEFAULT_MAX_CONTEXT`].
    pub context_length: Option<usize>,
    /// Sequences computed at a time.
    pub max_concurrency: usize,
    /// Tokens that the KV cache holds, shared by all sequences; `None` takes two full contexts.
    pub kv_tokens: Option<usize>,
    /// What keys and values are kept in.
    pub kv_type: KvType,
    /// What becomes of matrices that the checkpoint has in 16 bits.
    pub weights_remainder: Remainder,
    /// Tokens per step, over all sequences.
    pub max_batched_tokens: usize,
    /// Bytes that the whole process may take; a KV cache whose size is not given is made to fit. `None` is no bound.
    pub memory_budget: Option<u64>,
    /// Whether requests begin with what others of the same beginning have computed.
    pub prefix_cache: bool,
    /// Tokens to guess ahead per step, over all sequences; 0 guesses none.
    pub speculative_tokens: usize,
    /// What computes.
    pub backend: BackendKind,
    /// What a GPU rounds activations to.
    pub gpu_activations: Activations,
    /// Whether a GPU decodes by graphs; without, its driver gets one kernel after another.
    pub gpu_graphs: bool,
    /// How a GPU's kernels are checked before a model is given to them; `None` trusts them.
    pub self_tests: Option<SelfTests>,
    /// Says what the model says, in place of its weights.
    pub script: Option<Script>,
    /// Threads to compute with; `None` takes as many as this process may use, cgroup quotas respected.
    pub num_threads: Option<usize>,
    /// Sequences that may wait; more are refused.
    pub max_waiting: usize,
    /// Reads weights no faster than this, to spare a shared disk.
    pub read_bytes_per_second: Option<u64>,
    /// How long running requests may go on once the runtime is told to end.
    pub drain_timeout: Duration,
}

/// Why a configuration cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A figure that must be at least 1 is not.
    #[error("{name} must be at least 1")]
    Zero {
        /// Which figure.
        name: &'static str,
    },
    /// The model was not made for so much.
    #[error("context length {asked} is more than the model's {possible} tokens")]
    ContextTooLong {
        /// In the configuration.
        asked: usize,
        /// Of the model.
        possible: usize,
    },
    /// The cache would have more blocks than there are ids.
    #[error("{kv_tokens} tokens in the KV cache are too many")]
    TooManyBlocks {
        /// In the configuration.
        kv_tokens: usize,
    },
}

impl RuntimeConfig {
    /// The defaults for one model.
    pub fn new(model_path: impl Into<PathBuf>) -> Self {
        let model_path = model_path.into();
        let served_name = model_path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        Self {
            model_path,
            served_name,
            context_length: None,
            max_concurrency: 4,
            kv_tokens: None,
            kv_type: KvType::Wide,
            weights_remainder: Remainder::Keep,
            max_batched_tokens: 512,
            memory_budget: None,
            prefix_cache: true,
            speculative_tokens: 0,
            backend: BackendKind::Cpu,
            gpu_activations: Activations::Bf16,
            gpu_graphs: true,
            self_tests: None,
            script: None,
            num_threads: None,
            max_waiting: 64,
            read_bytes_per_second: None,
            drain_timeout: Duration::from_secs(30),
        }
    }

    /// Threads that will compute.
    pub fn threads(&self) -> usize {
        self.num_threads.unwrap_or_else(|| available_parallelism().map_or(1, std::num::NonZero::get))
    }

    /// What a backend must prepare for a model of `possible_context` tokens and these cache groups.
    ///
    /// # Errors
    /// [`ConfigError`] naming the figure.
    pub fn limits(&self, possible_context: usize, groups: &[CacheGroupSpec]) -> Result<Limits, ConfigError> {
        let asked = self.context_length.unwrap_or_else(|| possible_context.min(DEFAULT_MAX_CONTEXT));
        let kv_tokens = self.kv_tokens.unwrap_or(asked.saturating_mul(2));
        let num_threads = self.threads();
        for (name, figure) in [
            ("context length", asked),
            ("max concurrency", self.max_concurrency),
            ("kv tokens", kv_tokens),
            ("max batched tokens", self.max_batched_tokens),
            ("number of threads", num_threads),
        ] {
            if figure == 0 {
                return Err(ConfigError::Zero { name });
            }
        }
        if asked > possible_context {
            return Err(ConfigError::ContextTooLong { asked, possible: possible_context });
        }
        let num_blocks = kv_tokens.div_ceil(BLOCK_SIZE);
        if u32::try_from(num_blocks).is_err() {
            return Err(ConfigError::TooManyBlocks { kv_tokens });
        }
        Ok(Limits {
            max_tokens_per_step: self.max_batched_tokens,
            max_sequences: self.max_concurrency,
            max_logits_per_step: self.max_concurrency.saturating_add(self.speculative_tokens),
            max_context: asked.min(num_blocks * BLOCK_SIZE),
            block_size: BLOCK_SIZE,
            num_blocks: groups.iter().map(|group| self.blocks_of(group, num_blocks)).collect(),
            kv_type: self.kv_type,
            num_threads,
        })
    }

    /// The same limits with another number of blocks in the groups that keep every token.
    pub(crate) fn with_full_blocks(&self, limits: &Limits, plan: &Plan, num_blocks: usize) -> Limits {
        Limits {
            max_context: limits.max_context.min(num_blocks * BLOCK_SIZE),
            num_blocks: plan.cache_groups.iter().map(|group| self.blocks_of(group, num_blocks)).collect(),
            ..limits.clone()
        }
    }

    /// A window group has the blocks that each sequence can see, and of a step after them; a recurrent group has a slot
    /// for each sequence, and as many for snapshots.
    fn blocks_of(&self, group: &CacheGroupSpec, num_blocks: usize) -> usize {
        match group.kind {
            CacheGroupKind::Full => num_blocks,
            CacheGroupKind::Window { window } => {
                // One more: neither end need be at the border of a block.
                let of_one = window.saturating_add(self.max_batched_tokens).div_ceil(BLOCK_SIZE) + 1;
                num_blocks.min(of_one.saturating_mul(self.max_concurrency))
            }
            CacheGroupKind::Recurrent { .. } => self.max_concurrency.saturating_mul(2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: [CacheGroupSpec; 1] =
        [CacheGroupSpec { kind: CacheGroupKind::Full, num_layers: 2, num_kv_heads: 1, head_dim: 16 }];

    #[test]
    fn two_full_contexts_are_kept_by_default() {
        let limits = RuntimeConfig::new("model.gguf").limits(1000, &FULL).unwrap();
        assert_eq!((limits.max_context, limits.num_blocks), (1000, vec![125]));
    }

    #[test]
    fn a_window_group_has_what_its_sequences_can_see() {
        let [full] = FULL;
        let window = CacheGroupSpec { kind: CacheGroupKind::Window { window: 100 }, ..full.clone() };
        let groups = [full, window];
        let config = RuntimeConfig { max_batched_tokens: 60, ..RuntimeConfig::new("model.gguf") };
        // 160 tokens touch 11 blocks at most; four sequences.
        assert_eq!(config.limits(10_000, &groups).unwrap().num_blocks, [1250, 44]);
        assert_eq!(config.limits(200, &groups).unwrap().num_blocks, [25, 25], "never more than a full one");
    }

    #[test]
    fn a_small_cache_limits_the_context() {
        let config = RuntimeConfig { kv_tokens: Some(100), ..RuntimeConfig::new("model.gguf") };
        assert_eq!(config.limits(1000, &FULL).unwrap().max_context, 112);
    }

    #[test]
    fn impossible_figures_are_refused_by_name() {
        let config = RuntimeConfig { context_length: Some(2000), ..RuntimeConfig::new("model.gguf") };
        let error = config.limits(1000, &FULL).unwrap_err();
        assert_eq!(error.to_string(), "context length 2000 is more than the model's 1000 tokens");
        let config = RuntimeConfig { max_concurrency: 0, ..RuntimeConfig::new("model.gguf") };
        assert_eq!(config.limits(1000, &FULL).unwrap_err(), ConfigError::Zero { name: "max concurrency" });
    }
}
