//! The lowered form of a model: ops over buffers in one arena, weights by name, cache groups.
//!
//! `kindling-models` makes it from a `ModelSpec`; backends read it and never change it.
//! Adding an op: a variant here, and a file of its stem in the backends that need it.

/// Index into [`Plan::buffers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(pub usize);

/// Index into [`Plan::weights`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WeightId(pub usize);

/// Index into [`Plan::cache_groups`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CacheGroupId(pub usize);

/// Index into [`Plan::rotaries`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RotaryId(pub usize);

/// How many rows a buffer has in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rows {
    /// One per token of the step.
    Tokens,
    /// One per position whose logits are wanted.
    Logits,
}

/// One activation buffer: `[rows, width]` f32, row-major.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BufferSpec {
    /// For error messages and dumps, e.g. `layer 3 gate`.
    pub name: String,
    /// Elements per row.
    pub width: usize,
    /// Row count rule.
    pub rows: Rows,
}

/// One weight that the plan needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightSpec {
    /// Tensor name in the checkpoint.
    pub name: String,
    /// Row-major, outermost first: `[out_features, in_features]` or `[hidden_size]`.
    pub shape: Vec<usize>,
}

/// How a rotary embedding pairs the elements of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RotaryStyle {
    /// Pairs `(i, i + rotary_dim / 2)`: Hugging Face's layout (safetensors).
    Half,
    /// Pairs `(2i, 2i + 1)`: how GGUF stores the llama family.
    Interleaved,
}

/// Changes to the rotary frequencies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// Every position divided by `factor`.
    Linear {
        /// Divisor.
        factor: f32,
    },
    /// Llama 3's piecewise scaling by wavelength.
    Llama3 {
        /// Divisor of low frequencies.
        factor: f32,
        /// Wavelengths above `original_context / low_freq_factor` are divided.
        low_freq_factor: f32,
        /// Wavelengths below `original_context / high_freq_factor` stay.
        high_freq_factor: f32,
        /// Context of pretraining, in tokens.
        original_context: f32,
    },
}

/// One rotary table.
#[derive(Debug, Clone, PartialEq)]
pub struct RotarySpec {
    /// Leading elements of each head that are rotated; even.
    pub rotary_dim: usize,
    /// Base of the frequencies: `theta^(-2i / rotary_dim)`.
    pub theta: f32,
    /// Which elements form a pair.
    pub style: RotaryStyle,
    /// Frequency changes.
    pub scaling: Option<RopeScaling>,
    /// Divisors of each frequency given by the checkpoint (`rope_freqs.weight`), `[rotary_dim / 2]`.
    pub frequency_factors: Option<WeightId>,
}

/// What a cache group keeps per sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CacheGroupKind {
    /// Keys and values of all positions.
    Full,
    /// Keys and values of the last `window` positions.
    Window {
        /// In tokens.
        window: usize,
    },
}

/// Layers that share one block table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheGroupSpec {
    /// What is kept.
    pub kind: CacheGroupKind,
    /// Layers in this group.
    pub num_layers: usize,
    /// Key and value heads per layer.
    pub num_kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
}

/// Gate activation of a feed-forward part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
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
    /// `output = input / sqrt(mean(input^2) + eps) * weight`, by row.
    RmsNorm {
        /// `[rows, width]`.
        input: BufferId,
        /// `[width]`.
        weight: WeightId,
        /// Added to the mean square.
        eps: f32,
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
        /// Group that holds the layer.
        group: CacheGroupId,
        /// Layer within the group, from 0.
        layer: usize,
    },
    /// `output = activation(gate) * up`, element by element; `output` may be `gate` or `up`.
    GatedActivation {
        /// `[rows, width]`.
        gate: BufferId,
        /// Same shape.
        up: BufferId,
        /// Applied to `gate`.
        activation: Activation,
        /// Same shape.
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

/// A lowered model.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// In the order of [`WeightId`].
    pub weights: Vec<WeightSpec>,
    /// In the order of [`BufferId`].
    pub buffers: Vec<BufferSpec>,
    /// In the order of [`RotaryId`].
    pub rotaries: Vec<RotarySpec>,
    /// In the order of [`CacheGroupId`].
    pub cache_groups: Vec<CacheGroupSpec>,
    /// In execution order.
    pub ops: Vec<Op>,
    /// The buffer that holds the logits after the last op: `[num_logits, vocab_size]`.
    pub logits: BufferId,
    /// Rows of the embedding and of the output matrix.
    pub vocab_size: usize,
    /// Longest position that the model was made for, in tokens.
    pub max_position: usize,
}

impl Plan {
    /// Bytes of the activation arena, when every buffer has its own place.
    pub fn arena_bytes(&self, max_tokens: usize, max_logits: usize) -> usize {
        self.buffers
            .iter()
            .map(|buffer| {
                let rows = match buffer.rows {
                    Rows::Tokens => max_tokens,
                    Rows::Logits => max_logits,
                };
                rows * buffer.width * size_of::<f32>()
            })
            .sum()
    }
}
