//! The mistral family: llama with one window for all layers, or none.
//!
//! Mistral 7B, Mistral Nemo, Mistral Small 2 and 3 (text). Their GGUF files call themselves llama.
//!
//! # Source
//! Hugging Face `transformers`, `models/mistral/{configuration,modeling}_mistral.py`.

use kindling_kernels::RotaryStyle;
use serde::Deserialize;
use serde_json::Value;

use crate::architecture::{Architecture, Checkpoint, Description, SpecError};
use crate::decoder::{Biases, Decoder, DecoderConfig, between};
use crate::spec::{Attention, ModelSpec};

/// The entry in the list of architectures.
pub struct Mistral;

/// `config.json`, keys verbatim.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Config {
    /// What all families have.
    #[serde(flatten)]
    pub decoder: DecoderConfig,
    /// Every token sees so many positions, its own included; null: all. Where the key is absent, 4096: the family's
    /// default.
    #[serde(default = "default_window")]
    pub sliding_window: Option<usize>,
    /// Must be absent: all layers are alike.
    pub layer_types: Option<Value>,
}

fn default_window() -> Option<usize> {
    Some(4096)
}

impl Architecture for Mistral {
    fn name(&self) -> &'static str {
        "MistralForCausalLM"
    }

    fn claims(&self, checkpoint: &Checkpoint<'_>) -> Result<(), String> {
        checkpoint.is_of(self.name(), None)
    }

    fn spec(&self, checkpoint: &Checkpoint<'_>) -> Result<ModelSpec, SpecError> {
        let Description::ConfigJson(json) = checkpoint.description else {
            return Err(SpecError::NotClaimed("gguf files have no name for mistral".to_owned()));
        };
        let config: Config = DecoderConfig::from_json(self.name(), json)?;
        if let Some(types) = config.layer_types.filter(|types| !types.is_null()) {
            return Err(SpecError::unsupported("layer_types", &types.to_string(), "only layers that are alike are"));
        }
        config.sliding_window.map_or(Ok(()), |window| between("sliding_window", window, usize::MAX))?;
        let decoder = Decoder::new(&config.decoder, checkpoint)?;
        let layer = |index| {
            let parts = decoder.layer(index);
            let attention = Attention { window: config.sliding_window, ..parts.attention(Biases::None) };
            parts.layer(attention, parts.dense(false))
        };
        let layers = (0..config.decoder.num_hidden_layers).map(layer).collect();
        Ok(decoder.model(self.name(), layers, vec![decoder.rotary(RotaryStyle::Half)]))
    }
}
