//! The parts of a layer, by where they lie in the checkpoint.

use kindling_kernels::{Activation, WeightSpec};

use super::{Decoder, Dimensions};
use crate::architecture::Description;
use crate::spec::{Attention, FeedForward, GatedDense, Layer, Linear, Mixer, Norm};

/// Where a part lies in each kind of file; `.weight` and `.bias` come after.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Name {
    pub safetensors: &'static str,
    pub gguf: &'static str,
}

const LAYERS: Name = Name { safetensors: "model.layers", gguf: "blk" };
const INPUT_LAYERNORM: Name = Name { safetensors: "input_layernorm", gguf: "attn_norm" };
const POST_ATTENTION_LAYERNORM: Name = Name { safetensors: "post_attention_layernorm", gguf: "ffn_norm" };
/// GGUF has no scales beside it.
const SELF_ATTN: Name = Name { safetensors: "self_attn", gguf: "attn" };
const Q_PROJ: Name = Name { safetensors: "self_attn.q_proj", gguf: "attn_q" };
const K_PROJ: Name = Name { safetensors: "self_attn.k_proj", gguf: "attn_k" };
const V_PROJ: Name = Name { safetensors: "self_attn.v_proj", gguf: "attn_v" };
const O_PROJ: Name = Name { safetensors: "self_attn.o_proj", gguf: "attn_output" };
const Q_NORM: Name = Name { safetensors: "self_attn.q_norm", gguf: "attn_q_norm" };
const K_NORM: Name = Name { safetensors: "self_attn.k_norm", gguf: "attn_k_norm" };
const GATE_PROJ: Name = Name { safetensors: "mlp.gate_proj", gguf: "ffn_gate" };
const UP_PROJ: Name = Name { safetensors: "mlp.up_proj", gguf: "ffn_up" };
const DOWN_PROJ: Name = Name { safetensors: "mlp.down_proj", gguf: "ffn_down" };

/// Which projections of a family's attention have biases by its config.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Biases {
    None,
    /// Queries, keys and values.
    Qkv,
    /// These and the output.
    All,
}

impl Biases {
    /// As a flag of the config says.
    pub(crate) fn all_if(flag: bool) -> Self {
        if flag { Self::All } else { Self::None }
    }
}

/// One layer of a checkpoint.
pub(crate) struct LayerParts<'a> {
    pub decoder: &'a Decoder<'a>,
    pub index: usize,
}

impl LayerParts<'_> {
    /// The full name of a part.
    pub(crate) fn name(&self, name: Name) -> String {
        format!("{}.{}.{}", self.decoder.name(LAYERS), self.index, self.decoder.name(name))
    }

    /// A vector of the layer that has no `.weight` after its name in safetensors.
    pub(crate) fn vector(&self, name: Name, len: usize) -> WeightSpec {
        WeightSpec::whole(self.name(name), vec![len])
    }

    /// `shape` is `[out_features, in_features]`. A GGUF file has no flag for biases: it has them or not.
    pub(crate) fn linear(&self, name: Name, shape: [usize; 2], bias_by_config: bool) -> Linear {
        let name = self.name(name);
        let bias = format!("{name}.bias");
        let has_bias = match self.decoder.checkpoint.description {
            Description::ConfigJson(_) => bias_by_config,
            Description::Gguf(_) => self.decoder.has(&bias),
        };
        Linear {
            weight: WeightSpec::whole(format!("{name}.weight"), shape.to_vec()),
            bias: has_bias.then(|| WeightSpec::whole(bias, vec![shape[0]])),
        }
    }

    /// Attention over all positions, with the first rotary table.
    pub(crate) fn attention(&self, biases: Biases) -> Attention {
        let Dimensions { num_kv_heads, head_dim, .. } = self.decoder.dimensions;
        let (num_heads, hidden) = (self.decoder.config.num_attention_heads, self.decoder.config.hidden_size);
        let (queries, keys) = (num_heads * head_dim, num_kv_heads * head_dim);
        let qkv = |name, rows| self.linear(name, [rows, hidden], biases != Biases::None);
        Attention {
            num_heads,
            num_kv_heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            rotary: Some(0),
            window: None,
            q_proj: qkv(Q_PROJ, queries),
            k_proj: qkv(K_PROJ, keys),
            v_proj: qkv(V_PROJ, keys),
            o_proj: self.linear(O_PROJ, [hidden, queries], biases == Biases::All),
            q_norm: None,
            k_norm: None,
            v_norm: None,
            gate_proj: None,
            sinks: None,
            kv_scales: self.kv_scales(),
        }
    }

    /// Scales of an 8-bit cache, where the checkpoint was calibrated for one: beside the projections as ModelOpt has
    /// them, or beside the attention as compressed-tensors has them.
    fn kv_scales(&self) -> Option<[WeightSpec; 2]> {
        let spellings = [["k_proj.k_scale", "v_proj.v_scale"], ["k_scale", "v_scale"]];
        let attention = self.name(SELF_ATTN);
        let names = spellings.map(|names| names.map(|name| format!("{attention}.{name}")));
        let found = names.into_iter().find(|[key, _]| self.decoder.has(key))?;
        Some(found.map(|name| WeightSpec::whole(name, vec![1])))
    }

    /// The same with norms of each head of queries and keys.
    pub(crate) fn attention_with_head_norms(&self, biases: Biases) -> Attention {
        let head_norm = |name| Some(self.decoder.norm_of(&self.name(name), self.decoder.dimensions.head_dim));
        Attention { q_norm: head_norm(Q_NORM), k_norm: head_norm(K_NORM), ..self.attention(biases) }
    }

    /// `down(silu(gate(x)) * up(x))`.
    pub(crate) fn dense(&self, has_biases: bool) -> FeedForward {
        self.dense_with(Activation::Silu, has_biases)
    }

    /// `down(activation(gate(x), up(x)))`.
    pub(crate) fn dense_with(&self, activation: Activation, has_biases: bool) -> FeedForward {
        let (hidden, inner) = (self.decoder.config.hidden_size, self.decoder.config.intermediate_size);
        FeedForward::Gated(Box::new(GatedDense {
            activation,
            gate_proj: self.linear(GATE_PROJ, [inner, hidden], has_biases),
            up_proj: self.linear(UP_PROJ, [inner, hidden], has_biases),
            down_proj: self.linear(DOWN_PROJ, [hidden, inner], has_biases),
        }))
    }

    /// A layer with one norm before each part.
    pub(crate) fn layer(&self, attention: Attention, feed_forward: FeedForward) -> Layer {
        self.layer_of(Mixer::Attention(Box::new(attention)), feed_forward)
    }

    /// The same with any mixer.
    pub(crate) fn layer_of(&self, mixer: Mixer, feed_forward: FeedForward) -> Layer {
        Layer {
            mixer_norm: self.norm(INPUT_LAYERNORM),
            mixer,
            post_mixer_norm: None,
            feed_forward_norm: self.norm(POST_ATTENTION_LAYERNORM),
            feed_forward,
            post_feed_forward_norm: None,
            output_scale: None,
        }
    }

    /// A norm over the hidden size.
    pub(crate) fn norm(&self, name: Name) -> Norm {
        self.decoder.norm(&self.name(name))
    }
}
