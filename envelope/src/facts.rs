//! What a checkpoint's description says of its memory: for every family that is known, whether or not anything here can
//! compute it. A family that is not known is refused: a guess would be taken for a promise.
//!
//! # Source
//! The configuration classes of Hugging Face `transformers`, `models/*/configuration_*.py`; of GGUF files,
//! `src/llama-arch.cpp` and `src/llama-model.cpp` of <https://github.com/ggml-org/llama.cpp>.

mod config;
mod gguf;
mod keys;

use serde_json::{Map, Value};

use crate::CacheLayers;

/// A checkpoint as it describes itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// As it calls itself.
    pub architecture: String,
    /// Blocks, of whatever kind.
    pub layers: u64,
    /// What they keep of the tokens before; layers that keep the same are together.
    pub cache: Vec<CacheLayers>,
    /// Longest sequence that it was made for, in tokens.
    pub max_context: u64,
}

/// Why a description is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DescribeError {
    /// It does not say what it is.
    #[error("{key} is missing or no name: the architecture is not known")]
    Nameless {
        /// Where the name would stand.
        key: &'static str,
    },
    /// Nobody has told what its layers keep.
    #[error("what {architecture} keeps of the tokens before is not known; known are {known}")]
    Unknown {
        /// Its name.
        architecture: String,
        /// Names of those that are.
        known: String,
    },
    /// A figure is not there.
    #[error("{key} is missing from the description of {architecture}, or no number")]
    Missing {
        /// Where it would stand.
        key: String,
        /// Of what.
        architecture: String,
    },
    /// A figure that cannot be.
    #[error("{key} of {architecture} is {found}, {expected}")]
    OutOfRange {
        /// Where it stands.
        key: String,
        /// Of what.
        architecture: String,
        /// Its value.
        found: String,
        /// What would be right.
        expected: String,
    },
}

impl Described {
    /// Reads `config.json`; where a model of several kinds of input has a part for text, that.
    ///
    /// # Errors
    /// [`DescribeError`] naming the architecture or the key.
    pub fn from_config(config: &Map<String, Value>) -> Result<Self, DescribeError> {
        config::describe(config)
    }

    /// Reads the metadata of a GGUF file, by full key; long lists, as those of the vocabulary, may be left out.
    ///
    /// # Errors
    /// As [`Described::from_config`].
    pub fn from_gguf(metadata: &Map<String, Value>) -> Result<Self, DescribeError> {
        gguf::describe(metadata)
    }

    /// Whether a stored tensor is needed to give one token after the other. Heads that guess several tokens ahead are
    /// not: `mtp.*`, or layers behind the last.
    pub fn is_loaded(&self, tensor: &str) -> bool {
        let behind = |rest: &str| rest.split('.').next().and_then(|number| number.parse::<u64>().ok());
        let layer = ["model.layers.", "model.language_model.layers.", "blk."]
            .iter()
            .find_map(|prefix| tensor.strip_prefix(prefix))
            .and_then(behind);
        !tensor.starts_with("mtp.") && layer.is_none_or(|layer| layer < self.layers)
    }

    fn new(architecture: &str, layers: Vec<Option<CacheLayers>>, max_context: u64) -> Self {
        let number = layers.len() as u64;
        let mut cache: Vec<CacheLayers> = Vec::new();
        for layer in layers.into_iter().flatten() {
            match cache.iter_mut().find(|group| group.with_layers(1) == layer) {
                Some(group) => *group = group.with_layers(group.layers() + 1),
                None => cache.push(layer),
            }
        }
        Self { architecture: architecture.to_owned(), layers: number, cache, max_context }
    }
}

/// The state of one layer that mixes tokens by a recurrence behind a convolution (Mamba 2, gated delta nets), in elements:
/// `inner` values by `state` each, and what the convolution has to remember of values and of both `groups` of keys.
fn state(inner: u64, groups: u64, state: u64, taps: u64) -> Option<CacheLayers> {
    let channels = inner.saturating_add(groups.saturating_mul(state).saturating_mul(2));
    let elements = inner.saturating_mul(state).saturating_add(channels.saturating_mul(taps.saturating_sub(1)));
    Some(CacheLayers::State { layers: 1, elements })
}
