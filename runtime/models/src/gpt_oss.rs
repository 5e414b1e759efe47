//! The gpt_oss family: every other layer with a window, attention sinks, experts with biases behind a clamped gate.
//!
//! gpt-oss-20b and gpt-oss-120b, whose experts are published as MXFP4. YaRN's borders are not rounded to whole pairs in
//! this family; GGUF metadata cannot say so, and so it is taken for granted there.
//!
//! # Source
//! Hugging Face `transformers`, `models/gpt_oss/{configuration,modeling}_gpt_oss.py`; for GGUF
//! `src/models/openai-moe.cpp` and `conversion/gpt_oss.py` in <https://github.com/ggml-org/llama.cpp>.

use kindling_kernels::{Activation, RotaryStyle, RouteRule};
use serde::Deserialize;

use crate::architecture::{Architecture, Checkpoint, Description, SpecError};
use crate::decoder::{
    Biases, Decoder, DecoderConfig, ExpertSizes, Keys, LayerParts, LayerType, MAX_EXPERTS, Name, RopeParameters,
    between, positive, windows,
};
use crate::spec::{Attention, FeedForward, Layer, ModelSpec, Moe};

/// The entry in the list of architectures.
pub struct GptOss;

const ROUTER: Name = Name { safetensors: "mlp.router", gguf: "ffn_gate_inp" };
const SINKS: Name = Name { safetensors: "self_attn.sinks", gguf: "attn_sinks.weight" };
/// GGUF files of this family name the second norm after what it follows, as safetensors do.
const POST_ATTENTION_LAYERNORM: Name = Name { safetensors: "post_attention_layernorm", gguf: "post_attention_norm" };

/// `config.json`, keys verbatim. GGUF metadata become the same.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Config {
    /// What all families have.
    #[serde(flatten)]
    pub decoder: DecoderConfig,
    /// Whether q, k, v and o have biases.
    #[serde(default = "yes")]
    pub attention_bias: bool,
    /// In tokens.
    #[serde(default = "default_window")]
    pub sliding_window: Option<usize>,
    /// Absent means that layers with and without window take turns.
    pub layer_types: Option<Vec<LayerType>>,
    /// Experts of a layer.
    pub num_local_experts: usize,
    /// Experts per token.
    #[serde(default = "default_top_k")]
    pub num_experts_per_tok: usize,
    /// Steepness of the gate.
    #[serde(default = "default_alpha")]
    pub swiglu_alpha: f64,
    /// Bound of what goes into the gate.
    #[serde(default = "default_limit")]
    pub swiglu_limit: f64,
}

fn yes() -> bool {
    true
}

fn default_window() -> Option<usize> {
    Some(128)
}

fn default_top_k() -> usize {
    4
}

fn default_alpha() -> f64 {
    1.702
}

fn default_limit() -> f64 {
    7.0
}

impl Config {
    fn read(checkpoint: &Checkpoint<'_>) -> Result<Self, SpecError> {
        let mut config: Self = match checkpoint.description {
            Description::ConfigJson(json) => DecoderConfig::from_json(GptOss.name(), json)?,
            Description::Gguf(metadata) => {
                return Self::from_gguf(&Keys { metadata, architecture: "gpt-oss" }, checkpoint);
            }
        };
        // The family's own defaults.
        config.decoder.head_dim.get_or_insert(64);
        config.decoder.rope_theta.get_or_insert(150_000.0);
        if config.decoder.rope_parameters.is_none() && config.decoder.rope_scaling.is_none() {
            config.decoder.rope_scaling = Some(RopeParameters {
                rope_type: Some("yarn".to_owned()),
                factor: Some(32.0),
                original_max_position_embeddings: Some(4096.0),
                truncate: Some(false),
                ..RopeParameters::default()
            });
        }
        Ok(config)
    }

    fn from_gguf(keys: &Keys<'_>, checkpoint: &Checkpoint<'_>) -> Result<Self, SpecError> {
        keys.refuse(&["expert_shared_count", "rope.freq_base_swa", "expert_weights_scale"])?;
        if keys.metadata.get(&keys.name("attention.sliding_window_pattern")).is_some() {
            let key = keys.name("attention.sliding_window_pattern");
            return Err(SpecError::unsupported(&key, "given", "only layers that take turns are"));
        }
        let mut decoder = DecoderConfig::from_gguf(keys, checkpoint.weights)?;
        decoder.intermediate_size = keys.required("expert_feed_forward_length")?;
        if let Some(scaling) = &mut decoder.rope_scaling {
            scaling.truncate = Some(false);
        }
        Ok(Self {
            decoder,
            attention_bias: true,
            sliding_window: Some(keys.required("attention.sliding_window")?),
            layer_types: None,
            num_local_experts: keys.required("expert_count")?,
            num_experts_per_tok: keys.required("expert_used_count")?,
            swiglu_alpha: default_alpha(),
            swiglu_limit: default_limit(),
        })
    }

    fn windows(&self) -> Result<Vec<Option<usize>>, SpecError> {
        let num_layers = self.decoder.num_hidden_layers;
        let in_turns = |index: usize| match index % 2 {
            0 => LayerType::SlidingAttention,
            _ => LayerType::FullAttention,
        };
        let layer_types = self.layer_types.clone().unwrap_or_else(|| (0..num_layers).map(in_turns).collect());
        windows(&layer_types, num_layers, self.sliding_window)
    }

    fn sizes(&self) -> Result<ExpertSizes, SpecError> {
        between("num_local_experts", self.num_local_experts, MAX_EXPERTS)?;
        between("num_experts_per_tok", self.num_experts_per_tok, self.num_local_experts)?;
        positive("swiglu_alpha", self.swiglu_alpha)?;
        positive("swiglu_limit", self.swiglu_limit)?;
        Ok(ExpertSizes {
            num_experts: self.num_local_experts,
            hidden_size: self.decoder.hidden_size,
            intermediate_size: self.decoder.intermediate_size,
        })
    }

    fn layer(&self, parts: &LayerParts<'_>, window: Option<usize>, sizes: ExpertSizes) -> Result<Layer, SpecError> {
        let sinks = Some(parts.vector(SINKS, self.decoder.num_attention_heads));
        let attention = Attention { window, sinks, ..parts.attention(Biases::all_if(self.attention_bias)) };
        let (alpha, limit) = (self.swiglu_alpha as f32, self.swiglu_limit as f32);
        let moe = Moe {
            router: parts.linear(ROUTER, [sizes.num_experts, sizes.hidden_size], true),
            rule: RouteRule::TopKSoftmax,
            top_k: self.num_experts_per_tok,
            experts: parts.interleaved_experts(sizes)?,
            activation: Activation::ClampedSwiglu { alpha, limit },
            shared: None,
        };
        let layer = parts.layer(attention, FeedForward::Moe(Box::new(moe)));
        Ok(Layer { feed_forward_norm: parts.norm(POST_ATTENTION_LAYERNORM), ..layer })
    }
}

impl Architecture for GptOss {
    fn name(&self) -> &'static str {
        "GptOssForCausalLM"
    }

    fn claims(&self, checkpoint: &Checkpoint<'_>) -> Result<(), String> {
        checkpoint.is_of(self.name(), Some("gpt-oss"))
    }

    fn spec(&self, checkpoint: &Checkpoint<'_>) -> Result<ModelSpec, SpecError> {
        let config = Config::read(checkpoint)?;
        let decoder = Decoder::new(&config.decoder, checkpoint)?;
        let (windows, sizes) = (config.windows()?, config.sizes()?);
        let layer = |(index, window)| config.layer(&decoder.layer(index), window, sizes);
        let layers = windows.into_iter().enumerate().map(layer).collect::<Result<_, _>>()?;
        Ok(decoder.model(self.name(), layers, vec![decoder.rotary(RotaryStyle::Half)]))
    }
}
