//! What is known of a checkpoint.

use std::collections::BTreeMap;
use std::fmt;

use kindling_agent::hub::Traffic;
use kindling_envelope::{Activations, Bytes, CacheLayers, Device, Model, Serving};
use kindling_models::Remainder;

use crate::planned::{Lowered, PlanError};

/// A checkpoint, as its heads tell.
pub struct Facts {
    /// As its `config.json` calls it, e.g. `LlamaForCausalLM`; of a GGUF file that the runtime cannot run, as that does.
    pub architecture: String,
    /// Longest sequence that it was made for, in tokens.
    pub max_context: u64,
    /// What its layers keep of the tokens before.
    pub cache: Vec<CacheLayers>,
    /// Rows of the embedding; known only of what the runtime can run.
    pub vocabulary: Option<u64>,
    /// Elements of the tensors that are used; known only of what the runtime can run.
    pub parameters: Option<u64>,
    /// The same without the experts that a token is not sent to.
    pub active_parameters: Option<u64>,
    /// The type of most bytes.
    pub quantization: String,
    /// Its tensors on disk.
    pub stored: Stored,
    /// Whether the runtime can run it, on any of its devices; else why not.
    pub runnable: Result<(), String>,
    /// What it cost to find out.
    pub traffic: Traffic,
    /// What would be computed, if that is known.
    pub(crate) lowered: Option<Lowered>,
}

/// Bytes of a checkpoint's tensors, as they lie in its files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stored {
    /// Those that are loaded.
    pub loaded: Bytes,
    /// Those that are not, heads that guess several tokens ahead for example.
    pub not_loaded: Bytes,
    /// The largest.
    pub largest_tensor: Bytes,
    /// All by the type that they are stored in.
    pub by_type: BTreeMap<String, Bytes>,
    /// Files with tensors.
    pub files: usize,
}

impl Facts {
    /// What the model is for the arithmetic of memory, when it is served so with `threads` threads. `None` for threads
    /// takes as many as there are cores.
    ///
    /// Where the device's backend can compute the model, weights and activations are what it would hold, to the byte, for
    /// this context; else weights are as stored, and nobody has planned the activations.
    ///
    /// # Errors
    /// [`PlanError`] if the backend refuses what its reader has accepted.
    pub fn model(&self, serving: &Serving, threads: Option<usize>) -> Result<Model, PlanError> {
        let unplanned = Model {
            weights: self.stored.loaded,
            largest_tensor: self.stored.largest_tensor,
            vocabulary: self.vocabulary,
            cache: self.cache.clone(),
            activations: Activations::Unplanned,
            max_context: self.max_context,
        };
        match &self.lowered {
            Some(lowered) => Ok(lowered.planned(serving, threads)?.unwrap_or(unplanned)),
            None => Ok(unplanned),
        }
    }

    /// The same model whose matrices in 16 bits become something else while they are read.
    #[must_use]
    pub fn with_remainder(mut self, remainder: Remainder) -> Self {
        if let Some(lowered) = self.lowered.take() {
            let (lowered, num_changed) = lowered.with_remainder(remainder);
            self.lowered = Some(lowered);
            self.quantization = remainder.quantization(&self.quantization, num_changed);
        }
        self
    }

    /// Why this device cannot run it, if it cannot.
    pub fn refusal(&self, device: Device) -> Option<String> {
        let any = self.runnable.as_ref().err().cloned();
        any.or_else(|| self.lowered.as_ref()?.refused_by(device))
    }
}

impl fmt::Debug for Facts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = formatter.debug_struct("Facts");
        all.field("architecture", &self.architecture).field("max_context", &self.max_context);
        all.field("cache", &self.cache).field("stored", &self.stored).field("runnable", &self.runnable);
        all.field("traffic", &self.traffic).finish_non_exhaustive()
    }
}
