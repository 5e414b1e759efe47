//! The gemma4 family, text only and dense: layers with a window have other heads than those without, which take their
//! keys for values too.
//!
//! Experts, per-layer embeddings and layers that share keys and values are refused by name. Checkpoints with vision or
//! audio towers are of other classes, which nothing here claims.
//!
//! # Source
//! Hugging Face `transformers`, `models/gemma4/{configuration,modeling}_gemma4.py`, classes `Gemma4Text*`; what
//! `proportional` means is in `modeling_rope_utils.py`.

use kindling_kernels::{Activation, DType, RopeScaling, RotaryStyle};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::architecture::{Architecture, Checkpoint, SpecError};
use crate::decoder::{
    Biases, Decoder, DecoderConfig, Dimensions, LayerParts, LayerType, Name, RopeParameters, between, positive,
    rope_scaling, windows,
};
use crate::spec::{Attention, Layer, ModelSpec, Norm, Rotary};

/// The entry in the list of architectures.
pub struct Gemma4;

const PRE_FEEDFORWARD_LAYERNORM: Name = Name { safetensors: "pre_feedforward_layernorm", gguf: "ffn_norm" };
const POST_FEEDFORWARD_LAYERNORM: Name = Name { safetensors: "post_feedforward_layernorm", gguf: "post_ffw_norm" };
const POST_ATTENTION_LAYERNORM: Name = Name { safetensors: "post_attention_layernorm", gguf: "post_attention_norm" };
const LAYER_SCALAR: Name = Name { safetensors: "layer_scalar", gguf: "layer_output_scale.weight" };
/// Bound far beyond any model.
const MAX_HEAD_DIM: usize = 1 << 14;
/// Tables in the order of [`ModelSpec::rotaries`].
const LOCAL_ROTARY: usize = 0;
const GLOBAL_ROTARY: usize = 1;

/// `config.json`, keys verbatim; defaults are the family's.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Config {
    /// What all families have.
    #[serde(flatten)]
    pub decoder: DecoderConfig,
    /// Must be `gelu_pytorch_tanh`.
    pub hidden_activation: Option<String>,
    /// Whether the output matrix is the embedding; absent means that it is.
    #[serde(rename = "tie_word_embeddings")]
    pub tied: Option<bool>,
    /// Must be false.
    #[serde(default)]
    pub attention_bias: bool,
    /// Whether layers without window take their keys for values and have heads of their own number.
    #[serde(default)]
    pub attention_k_eq_v: bool,
    /// Key and value heads of layers without window.
    pub num_global_key_value_heads: Option<usize>,
    /// Elements per head of layers without window.
    #[serde(default = "default_global_head_dim")]
    pub global_head_dim: usize,
    /// In tokens.
    #[serde(default = "default_window")]
    pub sliding_window: Option<usize>,
    /// Absent means that every sixth layer has no window.
    pub layer_types: Option<Vec<LayerType>>,
    /// Bounds the logits.
    pub final_logit_softcapping: Option<f64>,
    /// Must be 0; absent means 256.
    pub hidden_size_per_layer_input: Option<usize>,
    /// Must be false.
    #[serde(default)]
    pub enable_moe_block: bool,
    /// Must be 0.
    #[serde(default)]
    pub num_kv_shared_layers: usize,
    /// Must not be `all`; `vision` is about images only.
    pub use_bidirectional_attention: Option<String>,
    /// Must be absent: figures of single layers.
    pub per_layer_config: Option<Value>,
}

fn default_global_head_dim() -> usize {
    512
}

fn default_window() -> Option<usize> {
    Some(512)
}

impl Config {
    fn read(json: &Map<String, Value>) -> Result<Self, SpecError> {
        let mut config: Self = DecoderConfig::from_json(Gemma4.name(), json)?;
        config.decoder.head_dim.get_or_insert(256);
        config.decoder.tie_word_embeddings = config.tied.unwrap_or(true);
        config.refuse_variants()?;
        between("global_head_dim", config.global_head_dim, MAX_HEAD_DIM)?;
        if !config.global_head_dim.is_multiple_of(2) {
            let expected = "odd, rotary embeddings need pairs";
            return Err(SpecError::out_of_range("global_head_dim", config.global_head_dim, expected));
        }
        config.final_logit_softcapping.map_or(Ok(()), |cap| positive("final_logit_softcapping", cap))?;
        Ok(config)
    }

    fn refuse_variants(&self) -> Result<(), SpecError> {
        let activation = self.hidden_activation.as_deref().unwrap_or("gelu_pytorch_tanh");
        let per_layer = self.hidden_size_per_layer_input.unwrap_or(256).to_string();
        let bidirectional = self.use_bidirectional_attention.as_deref().unwrap_or("null");
        let given = |value: &Option<Value>| value.as_ref().is_some_and(|value| !value.is_null());
        let wrong = [
            ("hidden_activation", activation, activation != "gelu_pytorch_tanh", "only gelu_pytorch_tanh is"),
            (
                "hidden_size_per_layer_input",
                &per_layer,
                per_layer != "0",
                "only models without per-layer embeddings are",
            ),
            ("enable_moe_block", "true", self.enable_moe_block, "only dense models are"),
            ("num_kv_shared_layers", "above 0", self.num_kv_shared_layers > 0, "only layers with their own keys are"),
            ("attention_bias", "true", self.attention_bias, "only projections without are"),
            ("use_bidirectional_attention", bidirectional, bidirectional == "all", "only causal attention is"),
            ("per_layer_config", "given", given(&self.per_layer_config), "only layers of two kinds are"),
        ];
        match wrong.into_iter().find(|(_, _, is_wrong, _)| *is_wrong) {
            Some((key, found, _, supported)) => Err(SpecError::unsupported(key, found, supported)),
            None => Ok(()),
        }
    }

    /// The parameters of layers with a window and of those without, taken out of the config.
    fn take_ropes(&mut self) -> Result<[RopeParameters; 2], SpecError> {
        let mut both = self.decoder.rope_parameters.take().unwrap_or_default();
        let mut of =
            |key: &str, default: RopeParameters| match both.unknown.remove(key).filter(|value| !value.is_null()) {
                Some(value) => serde_json::from_value(value)
                    .map_err(|source| SpecError::Config { architecture: Gemma4.name(), source }),
                None => Ok(default),
            };
        let sliding = of("sliding_attention", rope("default", 10_000.0, None))?;
        let full = of("full_attention", rope("proportional", 1_000_000.0, Some(0.25)))?;
        if let Some(key) = both.unknown.keys().next() {
            return Err(SpecError::unsupported(&format!("rope_parameters.{key}"), "given", "its effect is not known"));
        }
        Ok([sliding, full])
    }

    fn windows(&self) -> Result<Vec<Option<usize>>, SpecError> {
        let num_layers = self.decoder.num_hidden_layers;
        let by_depth = |index: usize| match (index + 1) % 6 {
            0 => LayerType::FullAttention,
            _ => LayerType::SlidingAttention,
        };
        let layer_types = self.layer_types.clone().unwrap_or_else(|| (0..num_layers).map(by_depth).collect());
        let windows = windows(&layer_types, num_layers, self.sliding_window)?;
        match windows.last() {
            Some(Some(_)) => {
                let expected = "the last layer of this family has no window";
                Err(SpecError::unsupported("layer_types", "ending with sliding_attention", expected))
            }
            _ => Ok(windows),
        }
    }

    /// Of layers without window.
    fn global_dimensions(&self, local: Dimensions) -> Result<Dimensions, SpecError> {
        let own = self.num_global_key_value_heads.filter(|_| self.attention_k_eq_v);
        let num_kv_heads = own.unwrap_or(local.num_kv_heads);
        let num_heads = self.decoder.num_attention_heads;
        between("num_global_key_value_heads", num_kv_heads, num_heads)?;
        if !num_heads.is_multiple_of(num_kv_heads) {
            let expected = format!("not a divisor of num_attention_heads {num_heads}");
            return Err(SpecError::out_of_range("num_global_key_value_heads", num_kv_heads, expected));
        }
        Ok(Dimensions { num_kv_heads, head_dim: self.global_head_dim, ..local })
    }

    fn layer(&self, parts: &LayerParts<'_>, window: Option<usize>) -> Layer {
        let attention = parts.attention_with_head_norms(Biases::None);
        let keys_are_values = window.is_none() && self.attention_k_eq_v;
        let eps = self.decoder.rms_norm_eps as f32;
        let v_proj = if keys_are_values { attention.k_proj.clone() } else { attention.v_proj };
        let attention = Attention {
            scale: 1.0,
            rotary: Some(if window.is_some() { LOCAL_ROTARY } else { GLOBAL_ROTARY }),
            window,
            v_proj,
            v_norm: Some(Norm { weight: None, width: attention.head_dim, eps, offset: 0.0 }),
            ..attention
        };
        Layer {
            post_mixer_norm: Some(parts.norm(POST_ATTENTION_LAYERNORM)),
            feed_forward_norm: parts.norm(PRE_FEEDFORWARD_LAYERNORM),
            post_feed_forward_norm: Some(parts.norm(POST_FEEDFORWARD_LAYERNORM)),
            output_scale: Some(parts.vector(LAYER_SCALAR, 1)),
            ..parts.layer(attention, parts.dense_with(Activation::GeluTanh, false))
        }
    }
}

fn rope(rope_type: &str, theta: f64, partial_rotary_factor: Option<f64>) -> RopeParameters {
    let (rope_type, rope_theta) = (Some(rope_type.to_owned()), Some(theta));
    RopeParameters { rope_type, rope_theta, partial_rotary_factor, ..RopeParameters::default() }
}

/// The table of one kind of layers. `proportional` spreads the frequencies over the whole head and leaves the slow ones
/// unrotated.
fn rotary(rope: &RopeParameters, head_dim: usize, max_position: usize) -> Result<Rotary, SpecError> {
    let theta = rope.rope_theta.unwrap_or(10_000.0);
    positive("rope_theta", theta)?;
    let share = rope.partial_rotary_factor.unwrap_or(1.0);
    let scaling = if rope.rope_type.as_deref() == Some("proportional") {
        positive("partial_rotary_factor", share)?;
        let (factor, rotated_pairs) = (rope.factor.unwrap_or(1.0), (share * head_dim as f64 / 2.0) as usize);
        positive("rope_parameters.factor", factor)?;
        between("rotated pairs of a head", rotated_pairs, head_dim / 2)?;
        Some(RopeScaling::Proportional { factor: factor as f32, rotated_pairs })
    } else if share == 1.0 {
        rope_scaling(rope, max_position)?
    } else {
        return Err(SpecError::unsupported(
            "partial_rotary_factor",
            &share.to_string(),
            "only with proportional it is",
        ));
    };
    Ok(Rotary { rotary_dim: head_dim, theta: theta as f32, style: RotaryStyle::Half, scaling, frequency_factors: None })
}

/// The root of the hidden size, in the precision of the embedding: a model in bf16 was trained with a rounded one.
fn embedding_scale(hidden_size: usize, dtype: Option<DType>) -> f32 {
    let scale = (hidden_size as f64).sqrt() as f32;
    if dtype != Some(DType::BF16) {
        return scale;
    }
    let bits = scale.to_bits();
    f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
}

impl Architecture for Gemma4 {
    fn name(&self) -> &'static str {
        "Gemma4ForCausalLM"
    }

    fn claims(&self, checkpoint: &Checkpoint<'_>) -> Result<(), String> {
        checkpoint.is_of(self.name(), Some("gemma4"))
    }

    fn spec(&self, checkpoint: &Checkpoint<'_>) -> Result<ModelSpec, SpecError> {
        let mut config = Config::read(checkpoint.config_json("gemma4")?)?;
        let [sliding, full] = config.take_ropes()?;
        let max_position = config.decoder.max_position_embeddings;
        let windows = config.windows()?;
        let local = Decoder::new(&config.decoder, checkpoint)?;
        let global = Decoder { dimensions: config.global_dimensions(local.dimensions)?, ..local };
        let rotaries = vec![
            rotary(&sliding, local.dimensions.head_dim, max_position)?,
            rotary(&full, config.global_head_dim, max_position)?,
        ];
        let layer = |(index, window): (usize, Option<usize>)| {
            let decoder = if window.is_some() { &local } else { &global };
            config.layer(&decoder.layer(index), window)
        };
        let layers = windows.into_iter().enumerate().map(layer).collect();
        let model = local.model(self.name(), layers, rotaries);
        let dtype = checkpoint.weights.describe(&model.embed_tokens.name).map(|desc| desc.dtype);
        Ok(ModelSpec {
            embedding_scale: Some(embedding_scale(model.hidden_size, dtype)),
            final_logit_softcap: config.final_logit_softcapping.map(|cap| cap as f32),
            ..model
        })
    }
}

#[cfg(test)]
mod tests;
