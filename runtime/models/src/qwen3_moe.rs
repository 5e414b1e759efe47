//! The qwen3_moe family: qwen3 with experts in place of the dense feed-forward part.
//!
//! Qwen3-30B-A3B, Qwen3-235B-A22B, Qwen3-Coder.
//!
//! # Source
//! Hugging Face `transformers`, `models/qwen3_moe/{configuration,modeling}_qwen3_moe.py`; for GGUF
//! `src/models/qwen3moe.cpp` and `gguf-py/gguf/tensor_mapping.py` in <https://github.com/ggml-org/llama.cpp>.

use kindling_kernels::{Activation, RotaryStyle, RouteRule};
use serde::Deserialize;
use serde_json::Value;

use crate::architecture::{Architecture, Checkpoint, Description, SpecError};
use crate::decoder::{Biases, Decoder, DecoderConfig, ExpertSizes, Keys, LayerParts, MAX_EXPERTS, Name, between};
use crate::qwen3::DEFAULT_HEAD_DIM;
use crate::spec::{Attention, FeedForward, ModelSpec, Moe};

/// The entry in the list of architectures.
pub struct Qwen3Moe;

const ROUTER: Name = Name { safetensors: "mlp.gate", gguf: "ffn_gate_inp" };

/// `config.json`, keys verbatim. GGUF metadata become the same.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Config {
    /// What all families have.
    #[serde(flatten)]
    pub decoder: DecoderConfig,
    /// Whether q, k, v and o have biases.
    #[serde(default)]
    pub attention_bias: bool,
    /// Whether all layers have a window.
    #[serde(default)]
    pub use_sliding_window: bool,
    /// In tokens; the family's default is 4096.
    pub sliding_window: Option<usize>,
    /// Experts of a layer; files since transformers 5 may say it under the next key.
    pub num_experts: Option<usize>,
    /// The same.
    pub num_local_experts: Option<usize>,
    /// Experts per token.
    #[serde(default = "default_top_k")]
    pub num_experts_per_tok: usize,
    /// Width of an expert.
    pub moe_intermediate_size: usize,
    /// Whether the weights of the chosen experts are made to sum to 1.
    #[serde(default)]
    pub norm_topk_prob: bool,
    /// Every so manyth layer has experts.
    #[serde(default = "one")]
    pub decoder_sparse_step: usize,
    /// Layers that are dense all the same; null means none.
    pub mlp_only_layers: Option<Vec<usize>>,
    /// Must be absent: all layers are alike.
    pub layer_types: Option<Value>,
}

fn default_top_k() -> usize {
    8
}

fn one() -> usize {
    1
}

impl Config {
    fn read(checkpoint: &Checkpoint<'_>) -> Result<Self, SpecError> {
        let mut config: Self = match checkpoint.description {
            Description::ConfigJson(json) => DecoderConfig::from_json(Qwen3Moe.name(), json)?,
            Description::Gguf(metadata) => {
                return Self::from_gguf(&Keys { metadata, architecture: "qwen3moe" }, checkpoint);
            }
        };
        if let Some(types) = config.layer_types.as_ref().filter(|types| !types.is_null()) {
            return Err(SpecError::unsupported("layer_types", &types.to_string(), "only layers that are alike are"));
        }
        config.decoder.head_dim.get_or_insert(DEFAULT_HEAD_DIM);
        Ok(config)
    }

    fn from_gguf(keys: &Keys<'_>, checkpoint: &Checkpoint<'_>) -> Result<Self, SpecError> {
        keys.refuse(&["attention.sliding_window", "expert_shared_count", "expert_group_count"])?;
        Ok(Self {
            decoder: DecoderConfig::from_gguf(keys, checkpoint.weights)?,
            attention_bias: false,
            use_sliding_window: false,
            sliding_window: None,
            num_experts: Some(keys.required("expert_count")?),
            num_local_experts: None,
            num_experts_per_tok: keys.required("expert_used_count")?,
            moe_intermediate_size: keys.required("expert_feed_forward_length")?,
            // The metadata have no key that the family's files are known to set: all published models normalise.
            norm_topk_prob: true,
            decoder_sparse_step: 1,
            mlp_only_layers: None,
            layer_types: None,
        })
    }

    fn sizes(&self) -> Result<ExpertSizes, SpecError> {
        let missing = || SpecError::MissingKey { key: "num_experts".to_owned() };
        let num_experts = self.num_experts.or(self.num_local_experts).ok_or_else(missing)?;
        between("num_experts", num_experts, MAX_EXPERTS)?;
        between("num_experts_per_tok", self.num_experts_per_tok, num_experts)?;
        between("decoder_sparse_step", self.decoder_sparse_step, usize::MAX)?;
        let sizes = ExpertSizes {
            num_experts,
            hidden_size: self.decoder.hidden_size,
            intermediate_size: self.moe_intermediate_size,
        };
        sizes.check("moe_intermediate_size").map(|()| sizes)
    }

    fn window(&self) -> Result<Option<usize>, SpecError> {
        let window = self.use_sliding_window.then(|| self.sliding_window.unwrap_or(4096));
        window.map_or(Ok(()), |window| between("sliding_window", window, usize::MAX)).map(|()| window)
    }

    fn feed_forward(&self, parts: &LayerParts<'_>, sizes: ExpertSizes) -> FeedForward {
        let is_dense = self.mlp_only_layers.as_ref().is_some_and(|layers| layers.contains(&parts.index));
        if is_dense || !(parts.index + 1).is_multiple_of(self.decoder_sparse_step) {
            return parts.dense(false);
        }
        FeedForward::Moe(Box::new(Moe {
            router: parts.linear(ROUTER, [sizes.num_experts, sizes.hidden_size], false),
            rule: RouteRule::SoftmaxTopK { normalise: self.norm_topk_prob },
            top_k: self.num_experts_per_tok,
            experts: parts.experts(sizes),
            activation: Activation::Silu,
            shared: None,
        }))
    }
}

impl Architecture for Qwen3Moe {
    fn name(&self) -> &'static str {
        "Qwen3MoeForCausalLM"
    }

    fn claims(&self, checkpoint: &Checkpoint<'_>) -> Result<(), String> {
        checkpoint.is_of(self.name(), Some("qwen3moe"))
    }

    fn spec(&self, checkpoint: &Checkpoint<'_>) -> Result<ModelSpec, SpecError> {
        let config = Config::read(checkpoint)?;
        let decoder = Decoder::new(&config.decoder, checkpoint)?;
        let (sizes, window) = (config.sizes()?, config.window()?);
        let layer = |index| {
            let parts = decoder.layer(index);
            let attention = parts.attention_with_head_norms(Biases::all_if(config.attention_bias));
            parts.layer(Attention { window, ..attention }, config.feed_forward(&parts, sizes))
        };
        let layers = (0..config.decoder.num_hidden_layers).map(layer).collect();
        Ok(decoder.model(self.name(), layers, vec![decoder.rotary(RotaryStyle::Half)]))
    }
}
