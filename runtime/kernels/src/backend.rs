//! The seam between plans and the code that computes them.

use crate::{Plan, Step, StepError, WeightError, WeightSource};

/// What a prepared model must be able to hold. Fixed at preparation, so that memory is known before the first step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Tokens in one step, over all sequences.
    pub max_tokens_per_step: usize,
    /// Sequences in one step.
    pub max_sequences: usize,
    /// Rows of logits in one step.
    pub max_logits_per_step: usize,
    /// Longest sequence, in tokens.
    pub max_context: usize,
    /// Tokens per KV block.
    pub block_size: usize,
    /// KV blocks of each cache group, in their order; slots of a recurrent one.
    pub num_blocks: Vec<usize>,
    /// How keys and values are kept.
    pub kv_type: KvType,
    /// Threads to compute with; results do not depend on it.
    pub num_threads: usize,
}

/// How keys and values are kept in the cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KvType {
    /// 16 bits, of the backend's choice; `reference` keeps f32.
    #[default]
    Wide,
    /// E4M3 with the checkpoint's scales, or 1.
    F8E4M3,
}

/// How far preparation has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadProgress {
    /// Bytes of weights read so far.
    pub loaded_bytes: u64,
    /// Bytes of weights in all.
    pub total_bytes: u64,
}

/// Bytes held by a prepared model, by purpose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Weights as repacked.
    pub weight_bytes: usize,
    /// KV blocks of all groups.
    pub kv_cache_bytes: usize,
    /// Activations.
    pub activation_bytes: usize,
}

/// A way to compute plans.
pub trait Backend: Send + Sync {
    /// `reference`, `cpu`, `cuda`.
    fn name(&self) -> &'static str;

    /// The kernels that would be used on this machine, for status, e.g. `linear: avx512-vnni`.
    fn kernels(&self) -> Vec<String>;

    /// Reads, repacks and allocates everything; calls `progress` after each tensor.
    ///
    /// # Errors
    /// [`PrepareError`] if the plan is not supported, a weight is missing or of the wrong shape, or memory is refused.
    fn prepare(
        &self,
        plan: &Plan,
        weights: &dyn WeightSource,
        limits: &Limits,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Box<dyn PreparedModel>, PrepareError>;

    /// What [`PreparedModel::memory`] would say after [`Backend::prepare`] with the same arguments, to the byte. Allocates
    /// and reads nothing: it needs of the weights what describes them.
    ///
    /// # Errors
    /// As [`Backend::prepare`], but for what only an attempt shows.
    fn predict(&self, plan: &Plan, weights: &dyn WeightSource, limits: &Limits) -> Result<MemoryUse, PrepareError>;
}

/// A model that is ready to compute.
pub trait PreparedModel: Send {
    /// Computes one step. `logits` becomes `[num_logits, vocab_size]`, row-major, f32.
    ///
    /// # Errors
    /// [`ExecuteError`] if the step is malformed; the cache is then unchanged. Or if the device fails.
    fn execute(&mut self, step: &Step, logits: &mut Vec<f32>) -> Result<(), ExecuteError>;

    /// What it holds.
    fn memory(&self) -> MemoryUse;

    /// What of it is in memory by now, as the kernel counts it: pages come when they are used. `None` where nobody says.
    fn resident(&self) -> Option<MemoryUse> {
        None
    }
}

/// Why a model cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// A tensor is missing, has the wrong shape, or could not be read.
    #[error("prepare weights")]
    Weight(#[from] WeightError),
    /// The backend lacks something that the plan asks for.
    #[error("the {backend} backend does not support {what}")]
    Unsupported {
        /// Which backend.
        backend: &'static str,
        /// What is missing.
        what: String,
    },
    /// The machine refuses the memory.
    #[error("allocate {num_bytes} bytes for {what}")]
    Memory {
        /// What it was for.
        what: &'static str,
        /// How much was asked for.
        num_bytes: usize,
    },
    /// The machine refuses the threads.
    #[error("start {num_threads} threads")]
    Threads {
        /// How many, the caller's included.
        num_threads: usize,
        /// Why not.
        source: std::io::Error,
    },
    /// The plan contradicts itself.
    #[error("plan is inconsistent: {0}")]
    Plan(String),
    /// The device that was to compute fails.
    #[error("the {backend} backend's device fails")]
    Device {
        /// Which backend.
        backend: &'static str,
        /// What it says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Why a step was not computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExecuteError {
    /// The step is malformed.
    #[error("refuse step")]
    Step(#[from] StepError),
    /// The device fails, and nothing can be computed any more.
    #[error("the {backend} backend's device fails: {problem}")]
    Device {
        /// Which backend.
        backend: &'static str,
        /// What it says.
        problem: String,
    },
}
