//! A model as data: what an architecture file makes of a checkpoint, before it is lowered.
//!
//! A layer is a mixer and a feed-forward part, each behind its norm and added to the residual stream. New kinds
//! of either are new variants here and a match arm in [`crate::lower`].
//!
//! Every weight is a [`WeightSpec`]: a stored tensor as it is, or rows of stored tensors under a name of its own.

use kindling_kernels::{Activation, DeltaNetShape, RopeScaling, RotaryStyle, RouteRule, WeightSpec};

/// A whole model: dimensions, and where every weight lies in the checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// As the checkpoint's `config.json` calls it, e.g. `LlamaForCausalLM`.
    pub architecture: String,
    /// Rows of the embedding and of the output matrix.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Longest sequence that the model was made for, in tokens.
    pub context_length: usize,
    /// `[vocab_size, hidden_size]`.
    pub embed_tokens: WeightSpec,
    /// Multiplies what comes from the embedding.
    pub embedding_scale: Option<f32>,
    /// In order.
    pub layers: Vec<Layer>,
    /// Before the output matrix.
    pub final_norm: Norm,
    /// `[vocab_size, hidden_size]`; the same weight as `embed_tokens` if the model ties them.
    pub lm_head: Linear,
    /// Bounds the logits: `cap * tanh(logits / cap)`.
    pub final_logit_softcap: Option<f32>,
    /// Rotary tables that layers refer to by index.
    pub rotaries: Vec<Rotary>,
}

/// `hidden += mixer(norm(hidden)); hidden += feed_forward(norm(hidden))`.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// Before the mixer.
    pub mixer_norm: Norm,
    /// Mixes tokens.
    pub mixer: Mixer,
    /// Of what the mixer gives, before it is added.
    pub post_mixer_norm: Option<Norm>,
    /// Before the feed-forward part.
    pub feed_forward_norm: Norm,
    /// Treats each token by itself.
    pub feed_forward: FeedForward,
    /// Of what the feed-forward part gives, before it is added.
    pub post_feed_forward_norm: Option<Norm>,
    /// `[1]`: multiplies the residual stream after the layer.
    pub output_scale: Option<WeightSpec>,
}

/// What mixes tokens.
#[derive(Debug, Clone, PartialEq)]
pub enum Mixer {
    /// Softmax attention over cached keys and values.
    Attention(Box<Attention>),
    /// A state that every token changes.
    GatedDeltaNet(Box<GatedDeltaNet>),
}

/// Grouped-query attention.
#[derive(Debug, Clone, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Multiplies the scores.
    pub scale: f32,
    /// Index into [`ModelSpec::rotaries`]; `None`: positions are not embedded.
    pub rotary: Option<usize>,
    /// A token sees so many positions, its own included; `None`: all up to its own.
    pub window: Option<usize>,
    /// `[num_heads * head_dim, hidden_size]`.
    pub q_proj: Linear,
    /// `[num_kv_heads * head_dim, hidden_size]`.
    pub k_proj: Linear,
    /// `[num_kv_heads * head_dim, hidden_size]`; the same as `k_proj` where values are keys before their norm.
    pub v_proj: Linear,
    /// `[hidden_size, num_heads * head_dim]`.
    pub o_proj: Linear,
    /// Of each query head, before it is rotated.
    pub q_norm: Option<Norm>,
    /// Of each key head, before it is rotated.
    pub k_norm: Option<Norm>,
    /// Of each value head.
    pub v_norm: Option<Norm>,
    /// `[num_heads * head_dim, hidden_size]`: the sigmoid of its product multiplies what is attended to.
    pub gate_proj: Option<Linear>,
    /// `[num_heads]`: a score per head that takes part in the softmax and has no value.
    pub sinks: Option<WeightSpec>,
    /// `[1]` each: what keys and values are divided by where they are kept in 8 bits.
    pub kv_scales: Option<[WeightSpec; 2]>,
}

/// `out_proj(silu(z) * norm(rule(conv(qkv), beta, alpha)))`, the norm by value head.
#[derive(Debug, Clone, PartialEq)]
pub struct GatedDeltaNet {
    /// Sizes.
    pub shape: DeltaNetShape,
    /// `[conv_channels, hidden_size]`: queries, keys, values.
    pub qkv_proj: Linear,
    /// `[num_value_heads * value_dim, hidden_size]`.
    pub z_proj: Linear,
    /// `[num_value_heads, hidden_size]`.
    pub beta_proj: Linear,
    /// `[num_value_heads, hidden_size]`.
    pub alpha_proj: Linear,
    /// `[conv_channels, conv_kernel]`.
    pub conv: WeightSpec,
    /// `[num_value_heads]`: logarithm of the decay's rate.
    pub a_log: WeightSpec,
    /// `[num_value_heads]`: added to alpha.
    pub dt_bias: WeightSpec,
    /// `[value_dim]`.
    pub norm: Norm,
    /// `[hidden_size, num_value_heads * value_dim]`.
    pub out_proj: Linear,
}

/// What treats each token by itself.
#[derive(Debug, Clone, PartialEq)]
pub enum FeedForward {
    /// The same matrices for every token.
    Gated(Box<GatedDense>),
    /// A router chooses for each token.
    Moe(Box<Moe>),
}

/// `down_proj(activation(gate_proj(x), up_proj(x)))`.
#[derive(Debug, Clone, PartialEq)]
pub struct GatedDense {
    /// What is done with gate and up.
    pub activation: Activation,
    /// `[intermediate_size, hidden_size]`.
    pub gate_proj: Linear,
    /// `[intermediate_size, hidden_size]`.
    pub up_proj: Linear,
    /// `[hidden_size, intermediate_size]`.
    pub down_proj: Linear,
}

/// A mixture of experts: the sum of those that the router chooses, by its weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Moe {
    /// `[num_experts, hidden_size]`.
    pub router: Linear,
    /// How its logits become weights.
    pub rule: RouteRule,
    /// Experts per token.
    pub top_k: usize,
    /// Their matrices.
    pub experts: Experts,
    /// Of every expert.
    pub activation: Activation,
    /// One more expert that sees every token.
    pub shared: Option<SharedExpert>,
}

/// Matrices of all experts, stacked.
#[derive(Debug, Clone, PartialEq)]
pub struct Experts {
    /// `[num_experts, intermediate_size, hidden_size]`.
    pub gate_proj: WeightSpec,
    /// Same shape.
    pub up_proj: WeightSpec,
    /// `[num_experts, hidden_size, intermediate_size]`.
    pub down_proj: WeightSpec,
    /// `[num_experts, intermediate_size]`, `[num_experts, intermediate_size]`, `[num_experts, hidden_size]`.
    pub biases: Option<[WeightSpec; 3]>,
}

/// What sees every token beside the chosen experts.
#[derive(Debug, Clone, PartialEq)]
pub struct SharedExpert {
    /// Its matrices.
    pub dense: GatedDense,
    /// `[1, hidden_size]`: the sigmoid of its product multiplies the result.
    pub gate: Option<Linear>,
}

/// A matrix, applied as `x * weight^T + bias`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linear {
    /// `[out_features, in_features]`.
    pub weight: WeightSpec,
    /// `[out_features]`.
    pub bias: Option<WeightSpec>,
}

impl Linear {
    /// Elements of a row that comes out.
    pub fn out_features(&self) -> usize {
        self.weight.num_rows()
    }
}

/// Root-mean-square norm over groups of elements: a whole row, or each head of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Norm {
    /// `[width]`; `None` multiplies by 1.
    pub weight: Option<WeightSpec>,
    /// Elements that are normalised together.
    pub width: usize,
    /// Added to the mean square.
    pub eps: f32,
    /// Added to the weight: 1 in families that store it less one.
    pub offset: f32,
}

/// One rotary table.
#[derive(Debug, Clone, PartialEq)]
pub struct Rotary {
    /// Leading elements of each head that are rotated; even.
    pub rotary_dim: usize,
    /// Base of the frequencies.
    pub theta: f32,
    /// Which elements form a pair: a matter of how the file stores `q_proj` and `k_proj`.
    pub style: RotaryStyle,
    /// Changes to the frequencies.
    pub scaling: Option<RopeScaling>,
    /// `[rotary_dim / 2]`: a divisor for each frequency.
    pub frequency_factors: Option<WeightSpec>,
}
