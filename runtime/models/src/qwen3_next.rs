//! The qwen3_next family: three of four layers a gated delta net, the fourth attention behind a gate; experts with one
//! that sees every token. [`crate::qwen3_5`] has the same parts.
//!
//! Qwen3-Next-80B-A3B. Its heads for several tokens (`mtp.`) are not used.
//!
//! # Source
//! Hugging Face `transformers`, `models/qwen3_next/{configuration,modeling}_qwen3_next.py`.

use kindling_kernels::{Activation, DeltaNetShape, RotaryStyle, RouteRule};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::architecture::{Architecture, Checkpoint, SpecError};
use crate::decoder::{Decoder, DecoderConfig, DeltaProjections, ExpertSizes, LayerParts, MAX_EXPERTS, Name, between};
use crate::spec::{FeedForward, Layer, Mixer, ModelSpec, Moe};

/// The entry in the list of architectures.
pub struct Qwen3Next;

const ROUTER: Name = Name { safetensors: "mlp.gate", gguf: "ffn_gate_inp" };
/// Bounds far beyond any model, so that no product overflows.
const MAX_DELTA_HEADS: usize = 1 << 12;
const MAX_DELTA_DIM: usize = 1 << 12;
const MAX_TAPS: usize = 64;
/// The family's share of each head that is rotated, where the config does not say it.
const DEFAULT_ROTARY_FACTOR: f64 = 0.25;
const DEFAULT_HEAD_DIM: usize = 256;

/// An entry of `layer_types`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerType {
    /// Attention over all positions.
    FullAttention,
    /// A gated delta net.
    LinearAttention,
}

/// `config.json`, keys verbatim; defaults are the family's.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Config {
    /// What all families have.
    #[serde(flatten)]
    pub decoder: DecoderConfig,
    /// Must be false: rows of biases cannot be taken apart as those of `q_proj` are.
    #[serde(default)]
    pub attention_bias: bool,
    /// Must be absent or true.
    pub attn_output_gate: Option<bool>,
    /// What mixes tokens, layer by layer.
    pub layer_types: Option<Vec<LayerType>>,
    /// Every so manyth layer has attention, where `layer_types` is absent.
    #[serde(default = "four")]
    pub full_attention_interval: usize,
    /// Taps of the convolution.
    #[serde(default = "four")]
    pub linear_conv_kernel_dim: usize,
    /// Elements of a delta net's key.
    #[serde(default = "default_delta_dim")]
    pub linear_key_head_dim: usize,
    /// Elements of a delta net's value.
    #[serde(default = "default_delta_dim")]
    pub linear_value_head_dim: usize,
    /// Heads of a delta net's queries and keys.
    #[serde(default = "default_key_heads")]
    pub linear_num_key_heads: usize,
    /// Heads of a delta net's values.
    #[serde(default = "default_value_heads")]
    pub linear_num_value_heads: usize,
    /// Experts of a layer; 0 or absent: all layers are dense.
    #[serde(default)]
    pub num_experts: usize,
    /// Experts per token.
    #[serde(default)]
    pub num_experts_per_tok: usize,
    /// Width of an expert.
    #[serde(default)]
    pub moe_intermediate_size: usize,
    /// Width of the expert that sees every token.
    #[serde(default)]
    pub shared_expert_intermediate_size: usize,
    /// Whether the weights of the chosen experts are made to sum to 1.
    #[serde(default = "yes")]
    pub norm_topk_prob: bool,
    /// Every so manyth layer has experts.
    #[serde(default = "one")]
    pub decoder_sparse_step: usize,
    /// Layers that are dense all the same; null means none.
    pub mlp_only_layers: Option<Vec<usize>>,
}

fn one() -> usize {
    1
}

fn four() -> usize {
    4
}

fn default_delta_dim() -> usize {
    128
}

fn default_key_heads() -> usize {
    16
}

fn default_value_heads() -> usize {
    32
}

fn yes() -> bool {
    true
}

impl Config {
    /// Reads the config of the family or of one that has its parts.
    pub(crate) fn read(architecture: &'static str, json: &Map<String, Value>) -> Result<Self, SpecError> {
        let mut config: Self = DecoderConfig::from_json(architecture, json)?;
        config.decoder.head_dim.get_or_insert(DEFAULT_HEAD_DIM);
        if config.attention_bias {
            return Err(SpecError::unsupported("attention_bias", "true", "gated attention has none"));
        }
        if config.attn_output_gate == Some(false) {
            return Err(SpecError::unsupported("attn_output_gate", "false", "only gated attention is"));
        }
        Ok(config)
    }

    /// The model of these parts. All its norms but those of delta nets have weights that are stored less one.
    pub(crate) fn model(
        mut self,
        architecture: &'static str,
        checkpoint: &Checkpoint<'_>,
        projections: DeltaProjections,
    ) -> Result<ModelSpec, SpecError> {
        let factor = self.decoder.take_partial_rotary_factor().unwrap_or(DEFAULT_ROTARY_FACTOR);
        let mut decoder = Decoder::new(&self.decoder, checkpoint)?;
        decoder.norm_offset = 1.0;
        let rotary = decoder.partial_rotary(RotaryStyle::Half, factor)?;
        let (shape, sizes, layer_types) = (self.shape()?, self.sizes()?, self.layer_types()?);
        let layer = |(index, layer_type): (usize, &LayerType)| -> Layer {
            let parts = decoder.layer(index);
            let mixer = match layer_type {
                LayerType::FullAttention => Mixer::Attention(Box::new(parts.gated_attention())),
                LayerType::LinearAttention => Mixer::GatedDeltaNet(Box::new(parts.gated_delta_net(shape, projections))),
            };
            parts.layer_of(mixer, self.feed_forward(&parts, sizes))
        };
        let layers = layer_types.iter().enumerate().map(layer).collect();
        Ok(decoder.model(architecture, layers, vec![rotary]))
    }

    fn layer_types(&self) -> Result<Vec<LayerType>, SpecError> {
        let num_layers = self.decoder.num_hidden_layers;
        between("full_attention_interval", self.full_attention_interval, usize::MAX)?;
        let by_depth = |index: usize| match (index + 1).is_multiple_of(self.full_attention_interval) {
            true => LayerType::FullAttention,
            false => LayerType::LinearAttention,
        };
        let layer_types = self.layer_types.clone().unwrap_or_else(|| (0..num_layers).map(by_depth).collect());
        if layer_types.len() != num_layers {
            let expected = format!("there are {num_layers} layers");
            return Err(SpecError::out_of_range("the length of layer_types", layer_types.len(), expected));
        }
        Ok(layer_types)
    }

    fn shape(&self) -> Result<DeltaNetShape, SpecError> {
        let shape = DeltaNetShape {
            num_key_heads: self.linear_num_key_heads,
            num_value_heads: self.linear_num_value_heads,
            key_dim: self.linear_key_head_dim,
            value_dim: self.linear_value_head_dim,
            conv_kernel: self.linear_conv_kernel_dim,
        };
        between("linear_num_value_heads", shape.num_value_heads, MAX_DELTA_HEADS)?;
        between("linear_num_key_heads", shape.num_key_heads, shape.num_value_heads)?;
        between("linear_key_head_dim", shape.key_dim, MAX_DELTA_DIM)?;
        between("linear_value_head_dim", shape.value_dim, MAX_DELTA_DIM)?;
        between("linear_conv_kernel_dim", shape.conv_kernel, MAX_TAPS)?;
        if !shape.num_value_heads.is_multiple_of(shape.num_key_heads) {
            let expected = format!("not a divisor of linear_num_value_heads {}", shape.num_value_heads);
            return Err(SpecError::out_of_range("linear_num_key_heads", shape.num_key_heads, expected));
        }
        Ok(shape)
    }

    /// `None` if no layer has experts.
    fn sizes(&self) -> Result<Option<ExpertSizes>, SpecError> {
        if self.num_experts == 0 {
            return Ok(None);
        }
        between("num_experts", self.num_experts, MAX_EXPERTS)?;
        between("num_experts_per_tok", self.num_experts_per_tok, self.num_experts)?;
        between("decoder_sparse_step", self.decoder_sparse_step, usize::MAX)?;
        let sizes = |intermediate_size| ExpertSizes {
            num_experts: self.num_experts,
            hidden_size: self.decoder.hidden_size,
            intermediate_size,
        };
        sizes(self.shared_expert_intermediate_size).check("shared_expert_intermediate_size")?;
        let sizes = sizes(self.moe_intermediate_size);
        sizes.check("moe_intermediate_size").map(|()| Some(sizes))
    }

    fn feed_forward(&self, parts: &LayerParts<'_>, sizes: Option<ExpertSizes>) -> FeedForward {
        let is_dense = self.mlp_only_layers.as_ref().is_some_and(|layers| layers.contains(&parts.index));
        let Some(sizes) = sizes.filter(|_| !is_dense && (parts.index + 1).is_multiple_of(self.decoder_sparse_step))
        else {
            return parts.dense(false);
        };
        FeedForward::Moe(Box::new(Moe {
            router: parts.linear(ROUTER, [sizes.num_experts, sizes.hidden_size], false),
            rule: RouteRule::SoftmaxTopK { normalise: self.norm_topk_prob },
            top_k: self.num_experts_per_tok,
            experts: parts.experts(sizes),
            activation: Activation::Silu,
            shared: Some(parts.shared_expert(self.shared_expert_intermediate_size)),
        }))
    }
}

impl Architecture for Qwen3Next {
    fn name(&self) -> &'static str {
        "Qwen3NextForCausalLM"
    }

    fn claims(&self, checkpoint: &Checkpoint<'_>) -> Result<(), String> {
        checkpoint.is_of(self.name(), Some("qwen3next"))
    }

    fn spec(&self, checkpoint: &Checkpoint<'_>) -> Result<ModelSpec, SpecError> {
        let config = Config::read(self.name(), checkpoint.config_json("qwen3next")?)?;
        config.model(self.name(), checkpoint, DeltaProjections::ByKeyHead)
    }
}

#[cfg(test)]
mod tests;
