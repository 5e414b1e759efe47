//! A model as data: what an architecture file makes of a checkpoint, before it is lowered.
//!
//! A layer is a mixer and a feed-forward part, each behind its norm and added to the residual stream. New kinds
//! of either are new variants here and a match arm in [`crate::lower`].

use kindling_kernels::{RopeScaling, RotaryStyle};

/// A whole model: dimensions, and the checkpoint's name of every tensor that it uses.
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
    /// Tensor of shape `[vocab_size, hidden_size]`.
    pub embed_tokens: String,
    /// In order.
    pub layers: Vec<Layer>,
    /// Before the output matrix.
    pub final_norm: Norm,
    /// `[vocab_size, hidden_size]`; the same tensor as `embed_tokens` if the model ties them.
    pub lm_head: Linear,
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
    /// Before the feed-forward part.
    pub feed_forward_norm: Norm,
    /// Treats each token by itself.
    pub feed_forward: FeedForward,
}

/// What mixes tokens.
#[derive(Debug, Clone, PartialEq)]
pub enum Mixer {
    /// Softmax attention over cached keys and values.
    Attention(Attention),
}

/// Grouped-query attention with a rotary embedding.
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
    /// Index into [`ModelSpec::rotaries`].
    pub rotary: usize,
    /// `[num_heads * head_dim, hidden_size]`.
    pub q_proj: Linear,
    /// `[num_kv_heads * head_dim, hidden_size]`.
    pub k_proj: Linear,
    /// `[num_kv_heads * head_dim, hidden_size]`.
    pub v_proj: Linear,
    /// `[hidden_size, num_heads * head_dim]`.
    pub o_proj: Linear,
}

/// What treats each token by itself.
#[derive(Debug, Clone, PartialEq)]
pub enum FeedForward {
    /// `down_proj(silu(gate_proj(x)) * up_proj(x))`.
    SiluGated(GatedDense),
}

/// The three matrices of a gated feed-forward part.
#[derive(Debug, Clone, PartialEq)]
pub struct GatedDense {
    /// `[intermediate_size, hidden_size]`.
    pub gate_proj: Linear,
    /// `[intermediate_size, hidden_size]`.
    pub up_proj: Linear,
    /// `[hidden_size, intermediate_size]`.
    pub down_proj: Linear,
}

/// A matrix, applied as `x * weight^T + bias`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linear {
    /// Tensor of shape `[out_features, in_features]`.
    pub weight: String,
    /// Tensor of shape `[out_features]`.
    pub bias: Option<String>,
    /// Elements of a row that goes in.
    pub in_features: usize,
    /// Elements of a row that comes out.
    pub out_features: usize,
}

/// Root-mean-square norm over the hidden size.
#[derive(Debug, Clone, PartialEq)]
pub struct Norm {
    /// Tensor of shape `[hidden_size]`.
    pub weight: String,
    /// Added to the mean square.
    pub eps: f32,
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
    /// Tensor of shape `[rotary_dim / 2]` with a divisor for each frequency.
    pub frequency_factors: Option<String>,
}

impl ModelSpec {
    /// The linear weights of all layers, the output matrix not among them.
    pub fn layer_linears(&self) -> impl Iterator<Item = &Linear> {
        self.layers.iter().flat_map(|layer| {
            let Mixer::Attention(attention) = &layer.mixer;
            let FeedForward::SiluGated(dense) = &layer.feed_forward;
            let Attention { q_proj, k_proj, v_proj, o_proj, .. } = attention;
            let GatedDense { gate_proj, up_proj, down_proj } = dense;
            [q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]
        })
    }
}
