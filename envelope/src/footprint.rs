//! The terms of what a model needs.

use crate::{Bytes, CacheLayers, Device, Serving};

/// Added to a twentieth of the weights while nobody has planned the activations.
const UNPLANNED_ACTIVATIONS: Bytes = Bytes::mib(2355);

// Fitted to processes that were measured, see `cli/tests/measured_memory`: within 5 % of each, above some and below others.
/// Of a process on the processor, whatever the model: the program's pages that are used, its threads and queues.
const CPU_PROGRAM: Bytes = Bytes::mib(17);
/// Of an entry of the vocabulary: in the tables of the tokenizer, both ways, and with its merge.
const VOCABULARY_ENTRY: u64 = 300;
/// Of an entry of the vocabulary for each sequence: its logit, and what the sampler makes of it.
const LOGIT: u64 = 10;
/// Of a block of the KV cache: who holds it, the hash of its tokens, its places in the tables of what is free and cached.
const BLOCK_RECORD: u64 = 160;
/// Where nobody says how large a vocabulary is, it is as large as the largest that is common.
const LARGEST_VOCABULARY: u64 = 262_144;
/// Eight readers at most have a stage of 4 MiB each.
const CPU_STAGES: Bytes = Bytes::mib(32);

/// Facts of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// The tensors that are loaded, as the device holds them; where nobody has said, as they are stored.
    pub weights: Bytes,
    /// The largest of them: a GPU's driver holds it twice while it is copied.
    pub largest_tensor: Bytes,
    /// Entries of the vocabulary, which the process keeps in several tables; `None` where nobody has said.
    pub vocabulary: Option<u64>,
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
            runtime: serving.device.process(self.vocabulary, serving.concurrency, serving.pool_blocks()),
            load_transient: serving.device.load_transient(self.largest_tensor),
        }
    }
}

impl Device {
    /// Of a process beside its weights, cache and activations: program, vocabulary, stacks, queues, logits, what is noted
    /// of the blocks of the cache, the driver's context.
    pub fn process(self, vocabulary: Option<u64>, concurrency: u64, num_blocks: u64) -> Bytes {
        let entries = vocabulary.unwrap_or(LARGEST_VOCABULARY);
        let of_vocabulary = Bytes(VOCABULARY_ENTRY + LOGIT.saturating_mul(concurrency)).times(entries);
        match self {
            Self::Cpu => CPU_PROGRAM + of_vocabulary + Bytes(BLOCK_RECORD).times(num_blocks),
            // Not measured on a Spark yet.
            Self::Cuda => Bytes::gib(2),
        }
    }

    /// What is held while a model loads, beside what stays: the stages of the readers; for a GPU the largest tensor too.
    pub fn load_transient(self, largest_tensor: Bytes) -> Bytes {
        match self {
            Self::Cpu => CPU_STAGES,
            Self::Cuda => Bytes::mib(256) + largest_tensor,
        }
    }
}

impl Footprint {
    /// While it serves.
    pub fn resident(&self) -> Bytes {
        self.weights + self.kv_cache + self.activations + self.runtime
    }
}
