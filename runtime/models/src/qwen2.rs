//! The qwen2 family: llama with biases of queries, keys and values.
//!
//! Qwen 2 and 2.5 (text), and what is distilled into them.
//!
//! # Source
//! Hugging Face `transformers`, `models/qwen2/{configuration,modeling}_qwen2.py`; for GGUF `src/models/qwen2.cpp` and
//! `gguf-py/gguf/tensor_mapping.py` in <https://github.com/ggml-org/llama.cpp>.

use kindling_kernels::RotaryStyle;
use serde::Deserialize;

use crate::architecture::{Architecture, Checkpoint, Description, SpecError};
use crate::decoder::{Biases, Decoder, DecoderConfig, Keys, QwenWindow};
use crate::spec::{Attention, ModelSpec};

/// The entry in the list of architectures.
pub struct Qwen2;

/// `config.json`, keys verbatim. GGUF metadata become the same.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Config {
    /// What all families have.
    #[serde(flatten)]
    pub decoder: DecoderConfig,
    /// Which layers have a window.
    #[serde(flatten)]
    pub window: QwenWindow,
}

impl Config {
    fn read(checkpoint: &Checkpoint<'_>) -> Result<Self, SpecError> {
        match checkpoint.description {
            Description::ConfigJson(json) => DecoderConfig::from_json(Qwen2.name(), json),
            Description::Gguf(metadata) => {
                let keys = Keys { metadata, architecture: "qwen2" };
                keys.refuse(&["attention.sliding_window"])?;
                let decoder = DecoderConfig::from_gguf(&keys, checkpoint.weights)?;
                Ok(Self { decoder, window: QwenWindow::default() })
            }
        }
    }
}

impl Architecture for Qwen2 {
    fn name(&self) -> &'static str {
        "Qwen2ForCausalLM"
    }

    fn claims(&self, checkpoint: &Checkpoint<'_>) -> Result<(), String> {
        checkpoint.is_of(self.name(), Some("qwen2"))
    }

    fn spec(&self, checkpoint: &Checkpoint<'_>) -> Result<ModelSpec, SpecError> {
        let config = Config::read(checkpoint)?;
        let decoder = Decoder::new(&config.decoder, checkpoint)?;
        let windows = config.window.windows(config.decoder.num_hidden_layers)?;
        let layer = |(index, window)| {
            let parts = decoder.layer(index);
            parts.layer(Attention { window, ..parts.attention(Biases::Qkv) }, parts.dense(false))
        };
        let layers = windows.into_iter().enumerate().map(layer).collect();
        Ok(decoder.model(self.name(), layers, vec![decoder.rotary(RotaryStyle::Half)]))
    }
}
