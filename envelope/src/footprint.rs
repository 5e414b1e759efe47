//! The terms of what a model needs.

use crate::{Bytes, CacheLayers, Device, Serving};

/// Added to a twentieth of the weights while nobody has planned the activations.
const UNPLANNED_ACTIVATIONS: Bytes = Bytes::mib(2355);

/// Facts of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// The tensors that are loaded, as stored.
    pub weights: Bytes,
    /// The largest of them: it is held twice while it is repacked.
    pub largest_tensor: Bytes,
    /// What its layers keep of the tokens before.
    pub cache: Vec<CacheLayers>,
    /// What a step computes in.
    pub activations: Activations,
    /// Longest sequence that it was made for, in tokens.
    pub max_context: u64,
}

/// What a step computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activations {
    /// As planned by the device that computes.
    Planned {
        /// Whatever a step holds.
        fixed: Bytes,
        /// For each token that a step may compute.
        per_token: Bytes,
        /// For each sequence whose logits a step may compute.
        per_sequence: Bytes,
    },
    /// No plan was made: 2.3 GiB and a twentieth of the weights.
    Unplanned,
}

/// What a model takes, term by term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// Weights.
    pub weights: Bytes,
    /// Keys, values and states.
    pub kv_cache: Bytes,
    /// What a step computes in.
    pub activations: Bytes,
    /// The process itself.
    pub runtime: Bytes,
    /// While it loads, beside the rest.
    pub load_transient: Bytes,
}

impl Model {
    /// What it takes when it is served so.
    pub fn footprint(&self, serving: &Serving) -> Footprint {
        let activations = match self.activations {
            Activations::Planned { fixed, per_token, per_sequence } => {
                fixed + per_token.times(serving.max_batched_tokens) + per_sequence.times(serving.concurrency)
            }
            Activations::Unplanned => UNPLANNED_ACTIVATIONS + self.weights.percent(5),
        };
        Footprint {
            weights: self.weights,
            kv_cache: self.cache.iter().map(|layers| layers.bytes(serving)).sum(),
            activations,
            runtime: serving.device.process(),
            load_transient: serving.device.staging() + self.largest_tensor,
        }
    }
}

impl Device {
    /// Of a process beside its weights, cache and activations: program, vocabulary, stacks, queues, the driver's context.
    pub fn process(self) -> Bytes {
        match self {
            Self::Cpu => Bytes::mib(64),
            // Not measured on a Spark yet.
            Self::Cuda => Bytes::gib(2),
        }
    }

    /// What the readers hold at a time while a model loads.
    pub fn staging(self) -> Bytes {
        match self {
            Self::Cpu => Bytes::mib(8),
            Self::Cuda => Bytes::mib(256),
        }
    }
}

impl Footprint {
    /// While it serves.
    pub fn resident(&self) -> Bytes {
        self.weights + self.kv_cache + self.activations + self.runtime
    }
}
