//! What the families of plain transformer decoders have in common: how their figures are read from `config.json` and
//! from GGUF metadata, where their tensors lie in both kinds of files, and the parts that layers are made of.
//!
//! A family's file says which parts its layers have; nothing here knows a family.

mod config;
mod delta_net;
mod experts;
mod from_gguf;
mod layer;
mod rope;
mod validate;
mod window;

use kindling_kernels::{RotaryStyle, WeightSpec};

pub use config::{DecoderConfig, RopeParameters};
pub(crate) use delta_net::DeltaProjections;
pub(crate) use experts::{ExpertSizes, MAX_EXPERTS};
pub(crate) use from_gguf::Keys;
pub(crate) use layer::{Biases, LayerParts, Name};
pub(crate) use rope::scaling as rope_scaling;
pub(crate) use validate::{Dimensions, between, positive};
pub(crate) use window::windows;
pub use window::{LayerType, QwenWindow};

use crate::architecture::{Checkpoint, Description, SpecError};
use crate::spec::{Layer, Linear, ModelSpec, Norm, Rotary};

const EMBED_TOKENS: Name = Name { safetensors: "model.embed_tokens", gguf: "token_embd" };
const FINAL_NORM: Name = Name { safetensors: "model.norm", gguf: "output_norm" };
const LM_HEAD: Name = Name { safetensors: "lm_head", gguf: "output" };
/// Divisors of the rotary frequencies: Llama 3's scaling as GGUF files carry it.
const FREQUENCY_FACTORS: &str = "rope_freqs.weight";

/// A checkpoint with its checked figures: what a family makes its spec from.
pub(crate) struct Decoder<'a> {
    pub config: &'a DecoderConfig,
    pub dimensions: Dimensions,
    /// Added to the weights of norms: 1 in families that store them less one.
    pub norm_offset: f32,
    pub checkpoint: &'a Checkpoint<'a>,
}

impl<'a> Decoder<'a> {
    /// Checks the figures that all families have.
    ///
    /// # Errors
    /// [`SpecError`] with the key and its value.
    pub(crate) fn new(config: &'a DecoderConfig, checkpoint: &'a Checkpoint<'a>) -> Result<Self, SpecError> {
        Ok(Self { config, dimensions: validate::dimensions(config)?, norm_offset: 0.0, checkpoint })
    }

    /// The name of a part in this kind of file.
    pub(crate) fn name(&self, name: Name) -> &'static str {
        match self.checkpoint.description {
            Description::ConfigJson(_) => name.safetensors,
            Description::Gguf(_) => name.gguf,
        }
    }

    /// Whether the checkpoint has a tensor of this name.
    pub(crate) fn has(&self, tensor: &str) -> bool {
        self.checkpoint.weights.describe(tensor).is_some()
    }

    /// A norm over the hidden size.
    pub(crate) fn norm(&self, name: &str) -> Norm {
        self.norm_of(name, self.config.hidden_size)
    }

    /// A norm over groups of `width` elements.
    pub(crate) fn norm_of(&self, name: &str, width: usize) -> Norm {
        let weight = WeightSpec::whole(format!("{name}.weight"), vec![width]);
        Norm { weight: Some(weight), width, eps: self.config.rms_norm_eps as f32, offset: self.norm_offset }
    }

    /// A rotary table over whole heads. `gguf_style` is how GGUF files of the family order the rows of q and k.
    pub(crate) fn rotary(&self, gguf_style: RotaryStyle) -> Rotary {
        let (style, has_factors) = match self.checkpoint.description {
            Description::ConfigJson(_) => (RotaryStyle::Half, false),
            Description::Gguf(_) => (gguf_style, self.has(FREQUENCY_FACTORS)),
        };
        let Dimensions { head_dim: rotary_dim, rope_theta: theta, rope_scaling: scaling, .. } = self.dimensions;
        let factors = WeightSpec::whole(FREQUENCY_FACTORS, vec![rotary_dim / 2]);
        Rotary { rotary_dim, theta, style, scaling, frequency_factors: has_factors.then_some(factors) }
    }

    /// A rotary table over the leading `factor` of each head.
    ///
    /// # Errors
    /// [`SpecError::OutOfRange`] unless that is a number of pairs.
    pub(crate) fn partial_rotary(&self, gguf_style: RotaryStyle, factor: f64) -> Result<Rotary, SpecError> {
        let head_dim = self.dimensions.head_dim;
        let rotary_dim = (head_dim as f64 * factor) as usize;
        if rotary_dim == 0 || rotary_dim > head_dim || !rotary_dim.is_multiple_of(2) {
            let expected = format!("pairs among {head_dim} elements are needed");
            return Err(SpecError::out_of_range("partial_rotary_factor", factor, expected));
        }
        Ok(Rotary { rotary_dim, ..self.rotary(gguf_style) })
    }

    /// What layers are made of.
    pub(crate) fn layer(&self, index: usize) -> LayerParts<'_> {
        LayerParts { decoder: self, index }
    }

    /// The whole model around its layers.
    pub(crate) fn model(&self, architecture: &str, layers: Vec<Layer>, rotaries: Vec<Rotary>) -> ModelSpec {
        let DecoderConfig { vocab_size, hidden_size, tie_word_embeddings, .. } = *self.config;
        let matrix = |name: &str| WeightSpec::whole(format!("{name}.weight"), vec![vocab_size, hidden_size]);
        let embed_tokens = matrix(self.name(EMBED_TOKENS));
        let lm_head = if tie_word_embeddings { embed_tokens.clone() } else { matrix(self.name(LM_HEAD)) };
        ModelSpec {
            architecture: architecture.to_owned(),
            vocab_size,
            hidden_size,
            context_length: self.config.max_position_embeddings,
            embed_tokens,
            embedding_scale: None,
            layers,
            final_norm: self.norm(self.name(FINAL_NORM)),
            lm_head: Linear { weight: lm_head, bias: None },
            final_logit_softcap: None,
            rotaries,
        }
    }
}

#[cfg(test)]
mod tests;
