//! The llama family: grouped-query attention with a rotary embedding, gated SiLU feed-forward, RMS norms.
//!
//! Llama 2 and 3, SmolLM 1 and 2, TinyLlama, and Mistral where it has no sliding window.
//!
//! # Source
//! Hugging Face `transformers`, `models/llama/{configuration,modeling}_llama.py`; for GGUF the keys of
//! `docs/gguf.md` in <https://github.com/ggml-org/ggml> and the tensor names of `gguf-py/gguf/tensor_mapping.py`
//! in <https://github.com/ggml-org/llama.cpp>.

mod from_gguf;
mod validate;

use kindling_kernels::RotaryStyle;
use serde::Deserialize;
use serde_json::Value;

use crate::architecture::{Architecture, Checkpoint, Description, SpecError};
use crate::spec::{Attention, FeedForward, GatedDense, Layer, Linear, Mixer, ModelSpec, Norm, Rotary};

/// The entry in the list of architectures.
pub struct Llama;

/// `config.json`, keys verbatim. GGUF metadata become the same.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Config {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward part.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; absent means as many as query heads.
    pub num_key_value_heads: Option<usize>,
    /// Elements per head; absent means `hidden_size / num_attention_heads`.
    pub head_dim: Option<usize>,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Longest sequence in tokens.
    pub max_position_embeddings: usize,
    /// Added to the mean square in norms.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies; newer files have it in `rope_parameters`. The family's default is 10000.
    pub rope_theta: Option<f64>,
    /// Change of the rotary frequencies, as files before transformers 5 have it.
    pub rope_scaling: Option<RopeParameters>,
    /// The same with `rope_theta` in it, as files since transformers 5 have it.
    pub rope_parameters: Option<RopeParameters>,
    /// Must be `silu`.
    #[serde(default = "silu")]
    pub hidden_act: String,
    /// Whether q, k, v and o have biases.
    #[serde(default)]
    pub attention_bias: bool,
    /// Whether gate, up and down have biases.
    #[serde(default)]
    pub mlp_bias: bool,
    /// Whether the output matrix is the embedding.
    #[serde(default)]
    pub tie_word_embeddings: bool,
    /// Must be absent or null: attention over all positions.
    pub sliding_window: Option<Value>,
    /// Must be absent or 1.
    pub partial_rotary_factor: Option<f64>,
}

/// How the rotary frequencies are changed, keys verbatim.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct RopeParameters {
    /// `default`, `linear`, `llama3`; others are refused by name.
    #[serde(alias = "type")]
    pub rope_type: Option<String>,
    /// Base of the frequencies.
    pub rope_theta: Option<f64>,
    /// Divisor.
    pub factor: Option<f64>,
    /// Of `llama3`.
    pub low_freq_factor: Option<f64>,
    /// Of `llama3`.
    pub high_freq_factor: Option<f64>,
    /// Of `llama3`, in tokens.
    pub original_max_position_embeddings: Option<f64>,
    /// Must be absent or 1.
    pub partial_rotary_factor: Option<f64>,
}

fn silu() -> String {
    "silu".to_owned()
}

const CLASSES: [&str; 2] = ["LlamaForCausalLM", "MistralForCausalLM"];

impl Architecture for Llama {
    fn name(&self) -> &'static str {
        CLASSES[0]
    }

    fn claims(&self, checkpoint: &Checkpoint<'_>) -> Result<(), String> {
        match checkpoint.description {
            Description::ConfigJson(config) => match class(config) {
                Some(class) if CLASSES.contains(&class) => Ok(()),
                Some(class) => Err(format!("architectures in config.json says {class}")),
                None => Err("config.json has no list architectures with one name".to_owned()),
            },
            Description::Gguf(metadata) => match metadata.string("general.architecture") {
                Ok(Some("llama")) => Ok(()),
                Ok(Some(other)) => Err(format!("general.architecture is {other}, not llama")),
                Ok(None) => Err("metadata general.architecture is missing".to_owned()),
                Err(error) => Err(error.to_string()),
            },
        }
    }

    fn spec(&self, checkpoint: &Checkpoint<'_>) -> Result<ModelSpec, SpecError> {
        match checkpoint.description {
            Description::ConfigJson(json) => {
                let config = Config::deserialize(&Value::Object(json.clone()))
                    .map_err(|source| SpecError::Config { architecture: self.name(), source })?;
                build(class(json).unwrap_or(self.name()), &config, checkpoint)
            }
            Description::Gguf(metadata) => {
                let config = from_gguf::config(metadata, checkpoint.weights)?;
                build(self.name(), &config, checkpoint)
            }
        }
    }
}

/// The one name in `architectures`.
fn class(config: &serde_json::Map<String, Value>) -> Option<&str> {
    match config.get("architectures")?.as_array()?.as_slice() {
        [class] => class.as_str(),
        _ => None,
    }
}

/// Where the parts lie in a kind of file; `.weight` and `.bias` come after.
struct TensorNames {
    embed_tokens: &'static str,
    norm: &'static str,
    lm_head: &'static str,
    layers: &'static str,
    input_layernorm: &'static str,
    post_attention_layernorm: &'static str,
    q_proj: &'static str,
    k_proj: &'static str,
    v_proj: &'static str,
    o_proj: &'static str,
    gate_proj: &'static str,
    up_proj: &'static str,
    down_proj: &'static str,
}

const SAFETENSORS_NAMES: TensorNames = TensorNames {
    embed_tokens: "model.embed_tokens",
    norm: "model.norm",
    lm_head: "lm_head",
    layers: "model.layers",
    input_layernorm: "input_layernorm",
    post_attention_layernorm: "post_attention_layernorm",
    q_proj: "self_attn.q_proj",
    k_proj: "self_attn.k_proj",
    v_proj: "self_attn.v_proj",
    o_proj: "self_attn.o_proj",
    gate_proj: "mlp.gate_proj",
    up_proj: "mlp.up_proj",
    down_proj: "mlp.down_proj",
};

const GGUF_NAMES: TensorNames = TensorNames {
    embed_tokens: "token_embd",
    norm: "output_norm",
    lm_head: "output",
    layers: "blk",
    input_layernorm: "attn_norm",
    post_attention_layernorm: "ffn_norm",
    q_proj: "attn_q",
    k_proj: "attn_k",
    v_proj: "attn_v",
    o_proj: "attn_output",
    gate_proj: "ffn_gate",
    up_proj: "ffn_up",
    down_proj: "ffn_down",
};

fn build(architecture: &str, config: &Config, checkpoint: &Checkpoint<'_>) -> Result<ModelSpec, SpecError> {
    let dimensions = validate::dimensions(config)?;
    let (names, style) = match checkpoint.description {
        Description::ConfigJson(_) => (&SAFETENSORS_NAMES, RotaryStyle::Half),
        Description::Gguf(_) => (&GGUF_NAMES, RotaryStyle::Interleaved),
    };
    let builder = Builder { config, dimensions, checkpoint, names };
    let embed_tokens = format!("{}.weight", names.embed_tokens);
    let lm_head = if config.tie_word_embeddings { names.embed_tokens } else { names.lm_head };
    Ok(ModelSpec {
        architecture: architecture.to_owned(),
        vocab_size: config.vocab_size,
        hidden_size: config.hidden_size,
        context_length: config.max_position_embeddings,
        embed_tokens,
        layers: (0..config.num_hidden_layers).map(|index| builder.layer(index)).collect(),
        final_norm: builder.norm(names.norm.to_owned()),
        lm_head: Linear {
            weight: format!("{lm_head}.weight"),
            bias: None,
            in_features: config.hidden_size,
            out_features: config.vocab_size,
        },
        rotaries: vec![Rotary {
            rotary_dim: dimensions.head_dim,
            theta: dimensions.rope_theta,
            style,
            scaling: dimensions.rope_scaling,
            frequency_factors: builder.frequency_factors(),
        }],
    })
}

/// What every layer is made from.
struct Builder<'a> {
    config: &'a Config,
    dimensions: validate::Dimensions,
    checkpoint: &'a Checkpoint<'a>,
    names: &'static TensorNames,
}

impl Builder<'_> {
    fn layer(&self, index: usize) -> Layer {
        let Self { config, dimensions, names, .. } = self;
        let part = |name: &str| format!("{}.{index}.{name}", names.layers);
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let queries = config.num_attention_heads * dimensions.head_dim;
        let keys = dimensions.num_kv_heads * dimensions.head_dim;
        let attention = |name, shape| self.linear(part(name), shape, config.attention_bias);
        let dense = |name, shape| self.linear(part(name), shape, config.mlp_bias);
        Layer {
            mixer_norm: self.norm(part(names.input_layernorm)),
            mixer: Mixer::Attention(Attention {
                num_heads: config.num_attention_heads,
                num_kv_heads: dimensions.num_kv_heads,
                head_dim: dimensions.head_dim,
                scale: 1.0 / (dimensions.head_dim as f32).sqrt(),
                rotary: 0,
                q_proj: attention(names.q_proj, [queries, hidden]),
                k_proj: attention(names.k_proj, [keys, hidden]),
                v_proj: attention(names.v_proj, [keys, hidden]),
                o_proj: attention(names.o_proj, [hidden, queries]),
            }),
            feed_forward_norm: self.norm(part(names.post_attention_layernorm)),
            feed_forward: FeedForward::SiluGated(GatedDense {
                gate_proj: dense(names.gate_proj, [inner, hidden]),
                up_proj: dense(names.up_proj, [inner, hidden]),
                down_proj: dense(names.down_proj, [hidden, inner]),
            }),
        }
    }

    fn norm(&self, name: String) -> Norm {
        Norm { weight: format!("{name}.weight"), eps: self.config.rms_norm_eps as f32 }
    }

    /// `shape` is `[out_features, in_features]`. A GGUF file has no flag for biases: it has them or not.
    fn linear(&self, name: String, shape: [usize; 2], bias_by_config: bool) -> Linear {
        let bias = format!("{name}.bias");
        let has_bias = match self.checkpoint.description {
            Description::ConfigJson(_) => bias_by_config,
            Description::Gguf(_) => self.checkpoint.weights.describe(&bias).is_some(),
        };
        let [out_features, in_features] = shape;
        Linear { weight: format!("{name}.weight"), bias: has_bias.then_some(bias), in_features, out_features }
    }

    /// Llama 3 files in GGUF carry the scaled frequencies as divisors instead of the rule.
    fn frequency_factors(&self) -> Option<String> {
        let name = "rope_freqs.weight";
        let is_gguf = matches!(self.checkpoint.description, Description::Gguf(_));
        (is_gguf && self.checkpoint.weights.describe(name).is_some()).then(|| name.to_owned())
    }
}

#[cfg(test)]
mod tests;
