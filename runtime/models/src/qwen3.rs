//! The qwen3 family, dense: llama with a norm of each head of queries and keys.
//!
//! # Source
//! Hugging Face `transformers`, `models/qwen3/{configuration,modeling}_qwen3.py`; for GGUF `src/models/qwen3.cpp` and
//! `gguf-py/gguf/tensor_mapping.py` in <https://github.com/ggml-org/llama.cpp>.

use kindling_kernels::RotaryStyle;
use serde::Deserialize;

use crate::architecture::{Architecture, Checkpoint, Description, SpecError};
use crate::decoder::{Biases, Decoder, DecoderConfig, Keys, QwenWindow};
use crate::spec::{Attention, ModelSpec};

/// The entry in the list of architectures.
pub struct Qwen3;

/// `config.json`, keys verbatim. GGUF metadata become the same.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Config {
    /// What all families have.
    #[serde(flatten)]
    pub decoder: DecoderConfig,
    /// Which layers have a window.
    #[serde(flatten)]
    pub window: QwenWindow,
    /// Whether q, k, v and o have biases.
    #[serde(default)]
    pub attention_bias: bool,
}

/// Elements per head where the config does not say it: the family's own default, not a share of the hidden size.
pub(crate) const DEFAULT_HEAD_DIM: usize = 128;

impl Config {
    fn read(checkpoint: &Checkpoint<'_>) -> Result<Self, SpecError> {
        let mut config: Self = match checkpoint.description {
            Description::ConfigJson(json) => DecoderConfig::from_json(Qwen3.name(), json)?,
            Description::Gguf(metadata) => {
                let keys = Keys { metadata, architecture: "qwen3" };
                keys.refuse(&["attention.sliding_window"])?;
                let decoder = DecoderConfig::from_gguf(&keys, checkpoint.weights)?;
                return Ok(Self { decoder, window: QwenWindow::default(), attention_bias: false });
            }
        };
        config.decoder.head_dim.get_or_insert(DEFAULT_HEAD_DIM);
        Ok(config)
    }
}

impl Architecture for Qwen3 {
    fn name(&self) -> &'static str {
        "Qwen3ForCausalLM"
    }

    fn claims(&self, checkpoint: &Checkpoint<'_>) -> Result<(), String> {
        checkpoint.is_of(self.name(), Some("qwen3"))
    }

    fn spec(&self, checkpoint: &Checkpoint<'_>) -> Result<ModelSpec, SpecError> {
        let config = Config::read(checkpoint)?;
        let decoder = Decoder::new(&config.decoder, checkpoint)?;
        let windows = config.window.windows(config.decoder.num_hidden_layers)?;
        let layer = |(index, window)| {
            let parts = decoder.layer(index);
            let attention = parts.attention_with_head_norms(Biases::all_if(config.attention_bias));
            parts.layer(Attention { window, ..attention }, parts.dense(false))
        };
        let layers = windows.into_iter().enumerate().map(layer).collect();
        Ok(decoder.model(self.name(), layers, vec![decoder.rotary(RotaryStyle::Half)]))
    }
}
