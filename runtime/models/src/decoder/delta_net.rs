//! Parts of hybrid layers: gated delta nets, attention behind a gate, an expert that sees every token. Safetensors only:
//! nothing here knows how GGUF files have them.

use kindling_kernels::{Activation, DeltaNetShape, RowRange, WeightSpec};

use super::layer::{Biases, LayerParts, Name};
use crate::spec::{Attention, GatedDeltaNet, GatedDense, Linear, Norm, SharedExpert};

const LINEAR_ATTN: Name = Name { safetensors: "linear_attn", gguf: "ssm" };
const Q_PROJ: Name = Name { safetensors: "self_attn.q_proj", gguf: "attn_q" };
const SHARED_EXPERT: [Name; 3] = [
    Name { safetensors: "mlp.shared_expert.gate_proj", gguf: "ffn_gate_shexp" },
    Name { safetensors: "mlp.shared_expert.up_proj", gguf: "ffn_up_shexp" },
    Name { safetensors: "mlp.shared_expert.down_proj", gguf: "ffn_down_shexp" },
];
const SHARED_EXPERT_GATE: Name = Name { safetensors: "mlp.shared_expert_gate", gguf: "ffn_gate_inp_shexp" };

/// How the projections into a delta net are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeltaProjections {
    /// `in_proj_qkvz` and `in_proj_ba`: for each key head its query, its key and the rows of its value heads.
    ByKeyHead,
    /// `in_proj_qkv`, `in_proj_z`, `in_proj_b` and `in_proj_a`.
    Separate,
}

/// Rows of one matrix that lie together: where they begin in each key head's share, and how many.
type Share = (usize, usize);

impl LayerParts<'_> {
    /// Attention with norms of heads, whose `q_proj` has the rows of a gate after those of each head's query.
    pub(crate) fn gated_attention(&self) -> Attention {
        let attention = self.attention_with_head_norms(Biases::None);
        let (heads, rows) = (attention.num_heads, attention.head_dim);
        let tensor = format!("{}.weight", self.name(Q_PROJ));
        let half = |part: &str, first| {
            let name = format!("{}.{part}", self.name(Q_PROJ));
            self.by_head(name, &tensor, (heads, 2 * rows), &[(first, rows)])
        };
        Attention { q_proj: half("query", 0), gate_proj: Some(half("gate", rows)), ..attention }
    }

    pub(crate) fn gated_delta_net(&self, shape: DeltaNetShape, projections: DeltaProjections) -> GatedDeltaNet {
        let prefix = self.name(LINEAR_ATTN);
        let (heads, channels, hidden) = (shape.num_value_heads, shape.conv_channels(), self.decoder.config.hidden_size);
        let inner = heads * shape.value_dim;
        let plain = |part: &str, rows: usize, columns: usize| Linear {
            weight: WeightSpec::whole(format!("{prefix}.{part}.weight"), vec![rows, columns]),
            bias: None,
        };
        let [qkv_proj, z_proj, beta_proj, alpha_proj] = match projections {
            DeltaProjections::ByKeyHead => self.projections_by_key_head(shape),
            DeltaProjections::Separate => [
                plain("in_proj_qkv", channels, hidden),
                plain("in_proj_z", inner, hidden),
                plain("in_proj_b", heads, hidden),
                plain("in_proj_a", heads, hidden),
            ],
        };
        // Stored as `[channels, 1, taps]`.
        let conv_rows = RowRange { tensor: format!("{prefix}.conv1d.weight"), first: 0, step: 1, count: channels };
        let conv_shape = vec![channels, shape.conv_kernel];
        GatedDeltaNet {
            shape,
            qkv_proj,
            z_proj,
            beta_proj,
            alpha_proj,
            conv: WeightSpec { name: format!("{prefix}.conv1d"), shape: conv_shape, rows: vec![conv_rows] },
            a_log: WeightSpec::whole(format!("{prefix}.A_log"), vec![heads]),
            dt_bias: WeightSpec::whole(format!("{prefix}.dt_bias"), vec![heads]),
            norm: Norm { offset: 0.0, ..self.decoder.norm_of(&format!("{prefix}.norm"), shape.value_dim) },
            out_proj: plain("out_proj", hidden, inner),
        }
    }

    /// Queries with keys and values, z, beta, alpha.
    fn projections_by_key_head(&self, shape: DeltaNetShape) -> [Linear; 4] {
        let prefix = self.name(LINEAR_ATTN);
        let DeltaNetShape { num_key_heads, num_value_heads, key_dim: key, value_dim, .. } = shape;
        let per_key_head = num_value_heads / num_key_heads;
        let value = per_key_head * value_dim;
        let part = |tensor: &str, part: &str, share: usize, parts: &[Share]| {
            let name = format!("{prefix}.{tensor}.{part}");
            self.by_head(name, &format!("{prefix}.{tensor}.weight"), (num_key_heads, share), parts)
        };
        let qkvz = 2 * (key + value);
        [
            part("in_proj_qkvz", "qkv", qkvz, &[(0, key), (key, key), (2 * key, value)]),
            part("in_proj_qkvz", "z", qkvz, &[(2 * key + value, value)]),
            part("in_proj_ba", "beta", 2 * per_key_head, &[(0, per_key_head)]),
            part("in_proj_ba", "alpha", 2 * per_key_head, &[(per_key_head, per_key_head)]),
        ]
    }

    /// A matrix made of `parts` of each head's share of a tensor: the first part of all heads, then the second, ….
    fn by_head(&self, name: String, tensor: &str, (heads, share): (usize, usize), parts: &[Share]) -> Linear {
        let range = |head: usize, (first, count): Share| RowRange {
            tensor: tensor.to_owned(),
            first: head * share + first,
            step: 1,
            count,
        };
        let rows: Vec<RowRange> =
            parts.iter().flat_map(|part| (0..heads).map(move |head| range(head, *part))).collect();
        let num_rows = rows.iter().map(|range| range.count).sum();
        Linear { weight: WeightSpec { name, shape: vec![num_rows, self.decoder.config.hidden_size], rows }, bias: None }
    }

    /// An expert of this width that sees every token, behind the sigmoid of a gate.
    pub(crate) fn shared_expert(&self, width: usize) -> SharedExpert {
        let hidden = self.decoder.config.hidden_size;
        let [gate, up, down] = SHARED_EXPERT;
        SharedExpert {
            dense: GatedDense {
                activation: Activation::Silu,
                gate_proj: self.linear(gate, [width, hidden], false),
                up_proj: self.linear(up, [width, hidden], false),
                down_proj: self.linear(down, [hidden, width], false),
            },
            gate: Some(self.linear(SHARED_EXPERT_GATE, [1, hidden], false)),
        }
    }
}
