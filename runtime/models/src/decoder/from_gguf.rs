//! GGUF metadata as the same [`DecoderConfig`] that `config.json` gives.

use kindling_kernels::WeightSource;

use super::rope::sharpening;
use super::{DecoderConfig, RopeParameters};
use crate::architecture::SpecError;
use crate::gguf::Metadata;

/// The keys of one architecture: `<architecture>.<key>`.
pub(crate) struct Keys<'a> {
    pub metadata: &'a Metadata,
    pub architecture: &'static str,
}

impl Keys<'_> {
    /// The full name of a key.
    pub(crate) fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    pub(crate) fn optional(&self, key: &str) -> Result<Option<usize>, SpecError> {
        let key = self.name(key);
        let Some(number) = self.metadata.unsigned(&key)? else { return Ok(None) };
        let too_large = |_| SpecError::out_of_range(&key, number, "beyond the address space");
        usize::try_from(number).map(Some).map_err(too_large)
    }

    pub(crate) fn required(&self, key: &str) -> Result<usize, SpecError> {
        self.optional(key)?.ok_or_else(|| SpecError::MissingKey { key: self.name(key) })
    }

    fn float(&self, key: &str) -> Result<Option<f64>, SpecError> {
        Ok(self.metadata.float(&self.name(key))?)
    }

    /// Refuses keys that change what is computed in ways that the family's file does not know.
    ///
    /// # Errors
    /// [`SpecError::Unsupported`] with the first of `keys` that is there and not 0.
    pub(crate) fn refuse(&self, keys: &[&str]) -> Result<(), SpecError> {
        for key in keys {
            if let Some(number) = self.float(key)?.filter(|number| *number != 0.0) {
                let supported = format!("{} files with it are not known", self.architecture);
                return Err(SpecError::unsupported(&self.name(key), &number.to_string(), &supported));
            }
        }
        Ok(())
    }
}

impl DecoderConfig {
    /// Reads the keys that all families have.
    ///
    /// # Errors
    /// [`SpecError`] naming the key that is missing, of the wrong type or not supported.
    pub(crate) fn from_gguf(keys: &Keys<'_>, weights: &dyn WeightSource) -> Result<Self, SpecError> {
        if let Some(count) = keys.metadata.unsigned("split.count")?.filter(|count| *count > 1) {
            return Err(SpecError::unsupported("split.count", &count.to_string(), "only whole files are"));
        }
        let (head_dim, value_length) =
            (keys.optional("attention.key_length")?, keys.optional("attention.value_length")?);
        if head_dim != value_length {
            let found = format!("{value_length:?} beside a key length of {head_dim:?}");
            let key = keys.name("attention.value_length");
            return Err(SpecError::unsupported(&key, &found, "only equal lengths are"));
        }
        let embedding = weights.describe("token_embd.weight");
        let vocab_size = match keys.optional("vocab_size")? {
            Some(vocab_size) => vocab_size,
            None => embedding.and_then(|desc| desc.shape.first().copied()).unwrap_or(0),
        };
        const EPSILON: &str = "attention.layer_norm_rms_epsilon";
        let config = Self {
            hidden_size: keys.required("embedding_length")?,
            intermediate_size: keys.required("feed_forward_length")?,
            num_hidden_layers: keys.required("block_count")?,
            num_attention_heads: keys.required("attention.head_count")?,
            num_key_value_heads: keys.optional("attention.head_count_kv")?,
            head_dim,
            vocab_size,
            max_position_embeddings: keys.required("context_length")?,
            rms_norm_eps: keys.float(EPSILON)?.ok_or_else(|| SpecError::MissingKey { key: keys.name(EPSILON) })?,
            rope_theta: keys.float("rope.freq_base")?,
            rope_scaling: rope_scaling(keys)?,
            rope_parameters: None,
            hidden_act: super::config::silu(),
            tie_word_embeddings: weights.describe("output.weight").is_none(),
            partial_rotary_factor: None,
        };
        check_rotary_dim(keys, &config)?;
        Ok(config)
    }
}

fn rope_scaling(keys: &Keys<'_>) -> Result<Option<RopeParameters>, SpecError> {
    let type_key = keys.name("rope.scaling.type");
    let rope_type = keys.metadata.string(&type_key)?;
    let factor = keys.float("rope.scaling.factor")?;
    let (rope_type, factor) = match (rope_type, keys.float("rope.scale_linear")?) {
        (None, Some(factor)) => ("linear", Some(factor)),
        (None | Some("none"), _) => return Ok(None),
        (Some(rope_type), _) => (rope_type, factor),
    };
    let mut parameters = RopeParameters { rope_type: Some(rope_type.to_owned()), factor, ..RopeParameters::default() };
    if rope_type == "yarn" {
        keys.refuse(&["rope.scaling.yarn_ext_factor"])?;
        // The model's own attention factor, or a correction of what follows from the scaling.
        parameters.attention_factor = match keys.float("rope.scaling.yarn_attn_factor")? {
            Some(own) => Some(own),
            None => {
                let correction = keys.float("rope.scaling.attn_factor")?.unwrap_or(1.0);
                let weight = keys.float("rope.scaling.yarn_log_multiplier")?.unwrap_or(0.0);
                let factor = factor.ok_or_else(|| SpecError::MissingKey { key: keys.name("rope.scaling.factor") })?;
                Some(correction * sharpening(factor, 1.0) / sharpening(factor, weight))
            }
        };
        parameters.original_max_position_embeddings = keys.float("rope.scaling.original_context_length")?;
        parameters.beta_fast = keys.float("rope.scaling.yarn_beta_fast")?;
        parameters.beta_slow = keys.float("rope.scaling.yarn_beta_slow")?;
    }
    Ok(Some(parameters))
}

fn check_rotary_dim(keys: &Keys<'_>, config: &DecoderConfig) -> Result<(), SpecError> {
    const KEY: &str = "rope.dimension_count";
    let Some(rotary_dim) = keys.optional(KEY)? else { return Ok(()) };
    let head_dim = config.head_dim.or_else(|| config.hidden_size.checked_div(config.num_attention_heads));
    if Some(rotary_dim) != head_dim {
        let found = rotary_dim.to_string();
        return Err(SpecError::unsupported(&keys.name(KEY), &found, "only the whole head can be rotated"));
    }
    Ok(())
}
