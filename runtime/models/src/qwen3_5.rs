//! The qwen3_5 family, text only: the parts of [`crate::qwen3_next`], with projections stored apart; dense, or with
//! experts whose weights always sum to 1.
//!
//! Its rotary embedding has three axes of positions, which are alike for text: sections of axes mean nothing then.
//! Checkpoints with a vision tower are of other classes, which nothing here claims.
//!
//! # Source
//! Hugging Face `transformers`, `models/qwen3_5{,_moe}/{configuration,modeling}_qwen3_5{,_moe}.py`.

use serde_json::{Map, Value};

use crate::architecture::{Architecture, Checkpoint, SpecError};
use crate::decoder::DeltaProjections;
use crate::qwen3_next::Config;
use crate::spec::ModelSpec;

/// The entry of the dense models in the list of architectures.
pub struct Qwen3_5;

/// The entry of the models with experts.
pub struct Qwen3_5Moe;

fn spec(name: &'static str, checkpoint: &Checkpoint<'_>, json: &Map<String, Value>) -> Result<ModelSpec, SpecError> {
    let mut config = Config::read(name, json)?;
    for rope in [&mut config.decoder.rope_parameters, &mut config.decoder.rope_scaling].into_iter().flatten() {
        rope.unknown.remove("mrope_section");
        rope.unknown.remove("mrope_interleaved");
    }
    config.norm_topk_prob = true;
    config.model(name, checkpoint, DeltaProjections::Separate)
}

impl Architecture for Qwen3_5 {
    fn name(&self) -> &'static str {
        "Qwen3_5ForCausalLM"
    }

    fn claims(&self, checkpoint: &Checkpoint<'_>) -> Result<(), String> {
        checkpoint.is_of(self.name(), Some("qwen35"))
    }

    fn spec(&self, checkpoint: &Checkpoint<'_>) -> Result<ModelSpec, SpecError> {
        spec(self.name(), checkpoint, checkpoint.config_json("qwen35")?)
    }
}

impl Architecture for Qwen3_5Moe {
    fn name(&self) -> &'static str {
        "Qwen3_5MoeForCausalLM"
    }

    fn claims(&self, checkpoint: &Checkpoint<'_>) -> Result<(), String> {
        checkpoint.is_of(self.name(), Some("qwen35moe"))
    }

    fn spec(&self, checkpoint: &Checkpoint<'_>) -> Result<ModelSpec, SpecError> {
        let mut json = checkpoint.config_json("qwen35moe")?.clone();
        // No layer is dense: the key is not there, and what would be read is not used.
        if let Some(width) = json.get("moe_intermediate_size").cloned() {
            json.entry("intermediate_size").or_insert(width);
        }
        spec(self.name(), checkpoint, &json)
    }
}
