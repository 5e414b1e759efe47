//! What a prepared model is and costs, for whoever measures it in the same process.

use std::path::Path;

use kindling_kernels::MemoryUse;
use kindling_models::ModelFacts;

use crate::decode_reads::DecodeReads;
use crate::error::LoadError;
use crate::shared::Shared;

/// A model as it was prepared.
#[derive(Debug, Clone)]
pub struct Summary {
    /// From the checkpoint.
    pub facts: ModelFacts,
    /// Name of the backend.
    pub backend: &'static str,
    /// Kernels that the backend uses on this machine.
    pub kernels: Vec<String>,
    /// Threads that compute.
    pub num_threads: usize,
    /// Bytes that the backend holds.
    pub memory: MemoryUse,
    /// Bytes that a token costs.
    pub decode_reads: DecodeReads,
}

/// What a checkpoint is, from its headers alone.
///
/// # Errors
/// [`LoadError::Open`] if there is none at the path, or it is damaged or not supported.
pub fn facts(path: &Path) -> Result<ModelFacts, LoadError> {
    let opened = kindling_models::open_weights(path);
    opened
        .map(|opened| opened.facts)
        .map_err(|source| LoadError::Open { path: path.to_owned(), source: Box::new(source) })
}

impl Summary {
    /// Of what `shared` knows; `None` until the model is prepared.
    pub(crate) fn new(shared: &Shared) -> Option<Self> {
        let (description, prepared) = (shared.description.get()?, shared.prepared.get()?);
        Some(Self {
            facts: description.facts.clone(),
            backend: shared.backend,
            kernels: shared.kernels.clone(),
            num_threads: description.limits.num_threads,
            memory: prepared.memory,
            decode_reads: prepared.decode_reads.clone(),
        })
    }
}
