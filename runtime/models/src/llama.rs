//! The llama family: grouped-query attention with a rotary embedding, gated SiLU feed-forward, RMS norms.
//!
//! Llama 2 and 3, SmolLM 1 and 2, TinyLlama. GGUF files of Mistral models without a window call themselves llama too.
//!
//! # Source
//! Hugging Face `transformers`, `models/llama/{configuration,modeling}_llama.py`; for GGUF the keys of
//! `docs/gguf.md` in <https://github.com/ggml-org/ggml> and the tensor names of `gguf-py/gguf/tensor_mapping.py`
//! in <https://github.com/ggml-org/llama.cpp>.

use kindling_kernels::RotaryStyle;
use serde::Deserialize;
use serde_json::Value;

use crate::architecture::{Architecture, Checkpoint, Description, SpecError};
use crate::decoder::{Biases, Decoder, DecoderConfig, Keys};
use crate::spec::ModelSpec;

/// The entry in the list of architectures.
pub struct Llama;

/// `config.json`, keys verbatim. GGUF metadata become the same.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Config {
    /// What all families have.
    #[serde(flatten)]
    pub decoder: DecoderConfig,
    /// Whether q, k, v and o have biases.
    #[serde(default)]
    pub attention_bias: bool,
    /// Whether gate, up and down have biases.
    #[serde(default)]
    pub mlp_bias: bool,
    /// Must be absent or null: attention over all positions.
    pub sliding_window: Option<Value>,
}

impl Config {
    fn read(checkpoint: &Checkpoint<'_>) -> Result<Self, SpecError> {
        let config: Self = match checkpoint.description {
            Description::ConfigJson(json) => DecoderConfig::from_json(Llama.name(), json)?,
            Description::Gguf(metadata) => {
                let keys = Keys { metadata, architecture: "llama" };
                keys.refuse(&["expert_count", "attention.sliding_window", "attention.temperature_length"])?;
                let decoder = DecoderConfig::from_gguf(&keys, checkpoint.weights)?;
                Self { decoder, attention_bias: false, mlp_bias: false, sliding_window: None }
            }
        };
        match config.sliding_window.as_ref().filter(|window| !window.is_null()) {
            Some(window) => {
                let window = window.to_string();
                Err(SpecError::unsupported("sliding_window", &window, "only attention over all positions is"))
            }
            None => Ok(config),
        }
    }
}

impl Architecture for Llama {
    fn name(&self) -> &'static str {
        "LlamaForCausalLM"
    }

    fn claims(&self, checkpoint: &Checkpoint<'_>) -> Result<(), String> {
        checkpoint.is_of(self.name(), Some("llama"))
    }

    fn spec(&self, checkpoint: &Checkpoint<'_>) -> Result<ModelSpec, SpecError> {
        let config = Config::read(checkpoint)?;
        let decoder = Decoder::new(&config.decoder, checkpoint)?;
        let layer = |index| {
            let parts = decoder.layer(index);
            parts.layer(parts.attention(Biases::all_if(config.attention_bias)), parts.dense(config.mlp_bias))
        };
        let layers = (0..config.decoder.num_hidden_layers).map(layer).collect();
        Ok(decoder.model(self.name(), layers, vec![decoder.rotary(RotaryStyle::Interleaved)]))
    }
}

#[cfg(test)]
mod tests;
