//! The figures that all families have.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::architecture::SpecError;

/// Keys of `config.json`, verbatim. GGUF metadata become the same. A family's own keys stand beside it in its file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct DecoderConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the dense feed-forward part.
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
    /// Base of the rotary frequencies; newer files have it in `rope_parameters`. The usual default is 10000.
    pub rope_theta: Option<f64>,
    /// Change of the rotary frequencies, as files before transformers 5 have it.
    pub rope_scaling: Option<RopeParameters>,
    /// The same with `rope_theta` in it, as files since transformers 5 have it.
    pub rope_parameters: Option<RopeParameters>,
    /// Must be `silu`.
    #[serde(default = "silu")]
    pub hidden_act: String,
    /// Whether the output matrix is the embedding.
    #[serde(default)]
    pub tie_word_embeddings: bool,
    /// Absent or 1 where whole heads are rotated; families that rotate a part take it out first.
    pub partial_rotary_factor: Option<f64>,
}

/// How the rotary frequencies are changed, keys verbatim.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct RopeParameters {
    /// `default`, `linear`, `llama3`, `yarn`; others are refused by name.
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
    /// Of `llama3` and `yarn`, in tokens.
    pub original_max_position_embeddings: Option<f64>,
    /// Of `yarn`: what cosines and sines are multiplied with; absent means that it follows from `factor`.
    pub attention_factor: Option<f64>,
    /// Of `yarn`: weighs the logarithm of `factor` in the attention factor.
    pub mscale: Option<f64>,
    /// Of `yarn`: the same in the divisor of the attention factor.
    pub mscale_all_dim: Option<f64>,
    /// Of `yarn`, 32 where absent.
    pub beta_fast: Option<f64>,
    /// Of `yarn`, 1 where absent.
    pub beta_slow: Option<f64>,
    /// Of `yarn`: whether borders are rounded to whole pairs, true where absent.
    pub truncate: Option<bool>,
    /// Must be absent or 1.
    pub partial_rotary_factor: Option<f64>,
    /// What is not known; refused by name, since frequencies without it would be others.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, Value>,
}

impl DecoderConfig {
    /// A family's config, which contains this one, as `config.json` gives it.
    ///
    /// # Errors
    /// [`SpecError::Config`] naming the key that is missing or of the wrong type.
    pub(crate) fn from_json<T: DeserializeOwned>(
        architecture: &'static str,
        json: &Map<String, Value>,
    ) -> Result<T, SpecError> {
        serde_json::from_value(Value::Object(json.clone())).map_err(|source| SpecError::Config { architecture, source })
    }

    /// For families that rotate a part of each head: the share, taken out of the config.
    pub(crate) fn take_partial_rotary_factor(&mut self) -> Option<f64> {
        let ropes = [&mut self.rope_parameters, &mut self.rope_scaling].into_iter().flatten();
        let of_ropes: Vec<f64> = ropes.filter_map(|rope| rope.partial_rotary_factor.take()).collect();
        self.partial_rotary_factor.take().or(of_ropes.first().copied())
    }
}

pub(super) fn silu() -> String {
    "silu".to_owned()
}
