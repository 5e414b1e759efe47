//! The operations of a plan. Adding one: a variant here, its check in `validate.rs`, and a file of its stem in the
//! backends that have it.

use super::{BufferId, CacheGroupId, RotaryId, WeightId};

/// What is done with a gate and the values beside it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// `gate * sigmoid(gate) * up`.
    Silu,
    /// `gelu(gate) * up`, with the tanh approximation.
    GeluTanh,
    /// `sigmoid(gate) * up`: gates of attention.
    Sigmoid,
    /// gpt-oss: `g = min(gate, limit)`, `u = clamp(up, -limit, limit)`, `g * sigmoid(alpha * g) * (u + 1)`.
    ClampedSwiglu {
        /// Steepness of the sigmoid.
        alpha: f32,
        /// Bound of both inputs.
        limit: f32,
    },
}

/// How a router's logits become the weights of experts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RouteRule {
    /// Softmax over all experts, then the `top_k` greatest; `normalise` makes these sum to 1.
    SoftmaxTopK {
        /// Whether the chosen ones are divided by their sum.
        normalise: bool,
    },
    /// The `top_k` greatest logits, then softmax over these.
    TopKSoftmax,
}

/// The matrices of stacked experts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExpertWeights {
    /// `[num_experts, intermediate_size, hidden_size]`.
    pub gate: WeightId,
    /// Same shape.
    pub up: WeightId,
    /// `[num_experts, hidden_size, intermediate_size]`.
    pub down: WeightId,
    /// `[num_experts, intermediate_size]`.
    pub gate_bias: Option<WeightId>,
    /// `[num_experts, intermediate_size]`.
    pub up_bias: Option<WeightId>,
    /// `[num_experts, hidden_size]`.
    pub down_bias: Option<WeightId>,
}

/// Sizes of a gated delta net; its state per layer is `value_heads * key_dim * value_dim` elements, then
/// `conv_channels * (conv_kernel - 1)` of the convolution's last inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaNetShape {
    /// Heads of queries and keys.
    pub num_key_heads: usize,
    /// Heads of values; a multiple of `num_key_heads`.
    pub num_value_heads: usize,
    /// Elements of a key.
    pub key_dim: usize,
    /// Elements of a value.
    pub value_dim: usize,
    /// Taps of the convolution.
    pub conv_kernel: usize,
}

impl DeltaNetShape {
    /// Channels of the convolution: queries, keys and values of all heads.
    pub fn conv_channels(&self) -> usize {
        2 * self.num_key_heads * self.key_dim + self.num_value_heads * self.value_dim
    }

    /// Elements of the state per layer that the rule works on: `[num_value_heads, key_dim, value_dim]`.
    pub fn memory_len(&self) -> usize {
        self.num_value_heads * self.key_dim * self.value_dim
    }

    /// Elements of the state per layer.
    pub fn state_len(&self) -> usize {
        self.memory_len() + self.conv_channels() * self.conv_kernel.saturating_sub(1)
    }
}

/// One operation. Buffers are f32; sums are f32.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// `output[t] = weight[token_ids[t]]`.
    EmbedTokens {
        /// `[vocab_size, hidden_size]`.
        weight: WeightId,
        /// `[num_tokens, hidden_size]`.
        output: BufferId,
    },
    /// `output = input / sqrt(mean(input^2) + eps) * (weight + weight_offset)`, by group of elements: a whole row, or
    /// each head of it.
    RmsNorm {
        /// `[rows, width]`.
        input: BufferId,
        /// `[group_width]`; `None` multiplies by 1.
        weight: Option<WeightId>,
        /// Added to the mean square.
        eps: f32,
        /// Added to the weight: 1 in families that store it less one.
        weight_offset: f32,
        /// Elements normalised together; divides the width.
        group_width: usize,
        /// Same shape as `input`; may be the same buffer.
        output: BufferId,
    },
    /// `output = input * weight^T + bias`.
    Linear {
        /// `[rows, in_features]`.
        input: BufferId,
        /// `[out_features, in_features]`.
        weight: WeightId,
        /// `[out_features]`.
        bias: Option<WeightId>,
        /// `[rows, out_features]`, another buffer than `input`.
        output: BufferId,
    },
    /// Rotates the leading `rotary_dim` elements of each head by the token's position, in place.
    Rotary {
        /// `[num_tokens, num_heads * head_dim]`.
        buffer: BufferId,
        /// Heads in a row.
        num_heads: usize,
        /// Elements per head.
        head_dim: usize,
        /// Frequencies.
        table: RotaryId,
    },
    /// Writes this step's keys and values into the blocks of each sequence.
    KvCacheAppend {
        /// `[num_tokens, num_kv_heads * head_dim]`.
        key: BufferId,
        /// Same shape.
        value: BufferId,
        /// Group that holds the layer.
        group: CacheGroupId,
        /// Layer within the group, from 0.
        layer: usize,
        /// Divide keys and values before they are stored in 8 bits; `[1]` each. Wider caches ignore them.
        kv_scales: Option<(WeightId, WeightId)>,
    },
    /// Causal softmax attention of each token over its sequence's cache, this step's tokens included.
    PagedAttention {
        /// `[num_tokens, num_heads * head_dim]`.
        query: BufferId,
        /// Same shape, another buffer.
        output: BufferId,
        /// Query heads; a multiple of the group's `num_kv_heads`.
        num_heads: usize,
        /// Multiplies the scores, usually `1 / sqrt(head_dim)`.
        scale: f32,
        /// `[num_heads]`: one more score per head that takes part in the softmax and has no value.
        sinks: Option<WeightId>,
        /// Group that holds the layer.
        group: CacheGroupId,
        /// Layer within the group, from 0.
        layer: usize,
    },
    /// `output = activation(gate, up)`, element by element; `output` may be `gate` or `up`.
    GatedActivation {
        /// `[rows, width]`.
        gate: BufferId,
        /// Same shape.
        up: BufferId,
        /// What is done with both.
        activation: Activation,
        /// Same shape.
        output: BufferId,
    },
    /// `buffer *= factor * weight`, all elements alike.
    Scale {
        /// `[rows, width]`.
        buffer: BufferId,
        /// A constant.
        factor: f32,
        /// `[1]`.
        weight: Option<WeightId>,
    },
    /// `buffer = cap * tanh(buffer / cap)`.
    SoftCap {
        /// `[rows, width]`.
        buffer: BufferId,
        /// Bound of what comes out.
        cap: f32,
    },
    /// `output[row] *= sigmoid(gate[row])`: the gate of a shared expert.
    SigmoidGateRows {
        /// `[rows, 1]`.
        gate: BufferId,
        /// `[rows, width]`.
        output: BufferId,
    },
    /// Weights of experts for each token, 0 for those not chosen. Ties go to the lower index.
    MoeRoute {
        /// `[num_tokens, num_experts]`.
        logits: BufferId,
        /// How.
        rule: RouteRule,
        /// Experts per token.
        top_k: usize,
        /// Same shape as `logits`, another buffer.
        output: BufferId,
    },
    /// `output = sum over chosen experts of route * down(activation(gate(input), up(input)))`, in order of expert.
    MoeExperts {
        /// `[num_tokens, hidden_size]`.
        input: BufferId,
        /// `[num_tokens, num_experts]`, from [`Op::MoeRoute`].
        routes: BufferId,
        /// Of all experts.
        experts: ExpertWeights,
        /// Of every expert.
        activation: Activation,
        /// Experts per token.
        top_k: usize,
        /// `[num_tokens, hidden_size]`, another buffer than `input`.
        output: BufferId,
    },
    /// Causal depthwise convolution over the tokens of a sequence, then SiLU, in place. Reads and writes the last
    /// `conv_kernel - 1` inputs in the sequence's state.
    CausalConv {
        /// `[num_tokens, conv_channels]`: queries, keys, values.
        buffer: BufferId,
        /// `[conv_channels, conv_kernel]`, the newest token last.
        weight: WeightId,
        /// Sizes.
        shape: DeltaNetShape,
        /// Recurrent group that holds the layer.
        group: CacheGroupId,
        /// Layer within the group, from 0.
        layer: usize,
    },
    /// The gated delta rule: each token decays the state, corrects it by its key and value, and reads it by its query.
    /// Queries and keys are divided by `sqrt(sum of squares + 1e-6)`, queries by `sqrt(key_dim)` too. With `d =
    /// exp(-exp(a_log) * softplus(alpha + dt_bias))`, a state `s` becomes `d * s + key * (value - key * d * s) *
    /// sigmoid(beta)`. Neighbouring value heads share a head of queries and keys.
    GatedDeltaRule {
        /// `[num_tokens, conv_channels]`: queries, keys, values after the convolution.
        qkv: BufferId,
        /// `[num_tokens, num_value_heads]`: logits of the step size (beta).
        beta: BufferId,
        /// `[num_tokens, num_value_heads]`: what `softplus(alpha + dt_bias)` is taken of.
        alpha: BufferId,
        /// `[num_value_heads]`: logarithm of the decay's rate.
        a_log: WeightId,
        /// `[num_value_heads]`.
        dt_bias: WeightId,
        /// Sizes.
        shape: DeltaNetShape,
        /// Recurrent group that holds the layer.
        group: CacheGroupId,
        /// Layer within the group, from 0.
        layer: usize,
        /// `[num_tokens, num_value_heads * value_dim]`.
        output: BufferId,
    },
    /// `output += input`.
    Add {
        /// `[rows, width]`.
        input: BufferId,
        /// Same shape.
        output: BufferId,
    },
    /// `output[i] = input[logit_indices[i]]`: from here on only rows whose logits are wanted.
    GatherLogitRows {
        /// `[num_tokens, width]`.
        input: BufferId,
        /// `[num_logits, width]`.
        output: BufferId,
    },
}

impl Op {
    /// The stem of its files, for messages.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::EmbedTokens { .. } => "embed_tokens",
            Self::RmsNorm { .. } => "rms_norm",
            Self::Linear { .. } => "linear",
            Self::Rotary { .. } => "rotary",
            Self::KvCacheAppend { .. } => "kv_cache_append",
            Self::PagedAttention { .. } => "paged_attention",
            Self::GatedActivation { .. } => "gated_activation",
            Self::Scale { .. } => "scale",
            Self::SoftCap { .. } => "soft_cap",
            Self::SigmoidGateRows { .. } => "sigmoid_gate_rows",
            Self::MoeRoute { .. } => "moe_route",
            Self::MoeExperts { .. } => "moe_experts",
            Self::CausalConv { .. } => "causal_conv",
            Self::GatedDeltaRule { .. } => "gated_delta_rule",
            Self::Add { .. } => "add",
            Self::GatherLogitRows { .. } => "gather_logit_rows",
        }
    }
}
