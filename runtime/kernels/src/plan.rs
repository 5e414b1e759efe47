//! The lowered form of a model: ops over buffers in one arena, weights by name, cache groups.
//!
//! `kindling-models` makes it from a `ModelSpec`; backends read it and never change it.

mod op;

use std::collections::HashSet;

pub use op::{Activation, DeltaNetShape, ExpertWeights, Op, RouteRule};

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
///
/// Its rows are all but the innermost dimension, flattened: a weight of shape `[num_experts, out_features,
/// in_features]` has `num_experts * out_features` of them, a vector has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightSpec {
    /// Tensor name in the checkpoint, or a name of its own if `rows` is not empty.
    pub name: String,
    /// Row-major, outermost first: `[out_features, in_features]` or `[hidden_size]`.
    pub shape: Vec<usize>,
    /// The stored rows that make up the weight, one range after another; empty: all rows of the tensor `name`.
    /// So a part of a fused projection is a weight, and so are the stacked matrices of separate experts.
    pub rows: Vec<RowRange>,
}

/// Rows `first`, `first + step`, … of a stored tensor, `count` of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowRange {
    /// Tensor name in the checkpoint.
    pub tensor: String,
    /// First row.
    pub first: usize,
    /// Distance of rows, at least 1.
    pub step: usize,
    /// Number of rows, at least 1.
    pub count: usize,
}

impl WeightSpec {
    /// A stored tensor as it is.
    pub fn whole(name: impl Into<String>, shape: Vec<usize>) -> Self {
        Self { name: name.into(), shape, rows: Vec::new() }
    }

    /// Rows: the product of all dimensions but the innermost.
    pub fn num_rows(&self) -> usize {
        let outer = self.shape.len().saturating_sub(1);
        self.shape[..outer].iter().fold(1, |product: usize, size| product.saturating_mul(*size))
    }

    /// Elements per row: the innermost dimension.
    pub fn row_len(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }
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
    /// The first pairs of a head turn, as slowly as they would among all pairs; the others stay as they are.
    Proportional {
        /// Divisor of frequencies.
        factor: f32,
        /// Pairs that turn.
        rotated_pairs: usize,
    },
    /// YaRN: frequencies between two numbers of turns are interpolated, and scores are sharpened.
    Yarn {
        /// Divisor of low frequencies.
        factor: f32,
        /// Pairs that turn more often than this over `original_context` stay.
        beta_fast: f32,
        /// Pairs that turn less often than this are divided.
        beta_slow: f32,
        /// Context of pretraining, in tokens.
        original_context: f32,
        /// Multiplies cosines and sines.
        attention_factor: f32,
        /// Whether the borders of the interpolation are rounded to whole pairs.
        truncate: bool,
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
    /// One state per layer that every token changes, in one slot per sequence. Its block table is that slot.
    Recurrent {
        /// f32 elements per layer.
        state_len: usize,
    },
}

/// Layers that share one block table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheGroupSpec {
    /// What is kept.
    pub kind: CacheGroupKind,
    /// Layers in this group.
    pub num_layers: usize,
    /// Key and value heads per layer; 0 in a recurrent group.
    pub num_kv_heads: usize,
    /// Elements per head; 0 in a recurrent group.
    pub head_dim: usize,
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

    /// The matrices whose output chooses experts, and which nobody looks up rows of: rounding them, or what they are
    /// multiplied with, chooses other experts.
    pub fn routers(&self) -> HashSet<WeightId> {
        let logits = self.ops.iter().filter_map(|op| match *op {
            Op::MoeRoute { logits, .. } => Some(logits),
            _ => None,
        });
        let logits: HashSet<BufferId> = logits.collect();
        let mut routers: HashSet<WeightId> = HashSet::new();
        for op in &self.ops {
            if let Op::Linear { weight, output, .. } = *op
                && logits.contains(&output)
            {
                routers.insert(weight);
            }
        }
        routers.retain(|id| !self.ops.iter().any(|op| matches!(op, Op::EmbedTokens { weight, .. } if weight == id)));
        routers
    }
}
