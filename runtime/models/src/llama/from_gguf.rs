//! GGUF metadata of the llama family as the same [`Config`] that `config.json` gives.

use kindling_kernels::WeightSource;

use super::{Config, RopeParameters};
use crate::architecture::SpecError;
use crate::gguf::Metadata;

/// Reads the `llama.*` keys.
pub(super) fn config(metadata: &Metadata, weights: &dyn WeightSource) -> Result<Config, SpecError> {
    refuse_variants(metadata)?;
    let num_attention_heads = required(metadata, "llama.attention.head_count")?;
    let head_dim = optional(metadata, "llama.attention.key_length")?;
    let value_length = optional(metadata, "llama.attention.value_length")?;
    if head_dim != value_length {
        let found = format!("{value_length:?} beside a key length of {head_dim:?}");
        return Err(unsupported("llama.attention.value_length", found, "only equal lengths are"));
    }
    let embedding = weights.describe("token_embd.weight");
    let vocab_size = match optional(metadata, "llama.vocab_size")? {
        Some(vocab_size) => vocab_size,
        None => embedding.and_then(|desc| desc.shape.first().copied()).unwrap_or(0),
    };
    let config = Config {
        hidden_size: required(metadata, "llama.embedding_length")?,
        intermediate_size: required(metadata, "llama.feed_forward_length")?,
        num_hidden_layers: required(metadata, "llama.block_count")?,
        num_attention_heads,
        num_key_value_heads: optional(metadata, "llama.attention.head_count_kv")?,
        head_dim,
        vocab_size,
        max_position_embeddings: required(metadata, "llama.context_length")?,
        rms_norm_eps: metadata
            .float("llama.attention.layer_norm_rms_epsilon")?
            .ok_or_else(|| missing("llama.attention.layer_norm_rms_epsilon"))?,
        rope_theta: metadata.float("llama.rope.freq_base")?,
        rope_scaling: rope_scaling(metadata)?,
        rope_parameters: None,
        hidden_act: super::silu(),
        attention_bias: false,
        mlp_bias: false,
        tie_word_embeddings: weights.describe("output.weight").is_none(),
        sliding_window: None,
        partial_rotary_factor: None,
    };
    check_rotary_dim(metadata, &config)?;
    Ok(config)
}

fn missing(key: &str) -> SpecError {
    SpecError::MissingKey { key: key.to_owned() }
}

fn unsupported(key: &str, found: String, supported: &str) -> SpecError {
    SpecError::Unsupported { key: key.to_owned(), found, supported: supported.to_owned() }
}

fn optional(metadata: &Metadata, key: &str) -> Result<Option<usize>, SpecError> {
    let Some(number) = metadata.unsigned(key)? else { return Ok(None) };
    let too_large = |_| SpecError::OutOfRange {
        key: key.to_owned(),
        found: number.to_string(),
        expected: "beyond the address space".to_owned(),
    };
    usize::try_from(number).map(Some).map_err(too_large)
}

fn required(metadata: &Metadata, key: &str) -> Result<usize, SpecError> {
    optional(metadata, key)?.ok_or_else(|| missing(key))
}

/// Files of general.architecture `llama` that compute something else.
fn refuse_variants(metadata: &Metadata) -> Result<(), SpecError> {
    for key in ["split.count", "llama.expert_count", "llama.attention.sliding_window"] {
        let number = metadata.unsigned(key)?.unwrap_or(0);
        let one_is_none = u64::from(key == "split.count");
        if number > one_is_none {
            return Err(unsupported(key, number.to_string(), "only whole files of dense, unwindowed models are"));
        }
    }
    Ok(())
}

fn rope_scaling(metadata: &Metadata) -> Result<Option<RopeParameters>, SpecError> {
    let rope_type = metadata.string("llama.rope.scaling.type")?;
    let factor = metadata.float("llama.rope.scaling.factor")?;
    let (rope_type, factor) = match (rope_type, metadata.float("llama.rope.scale_linear")?) {
        (None, Some(factor)) => ("linear", Some(factor)),
        (None | Some("none"), _) => return Ok(None),
        (Some(rope_type), _) => (rope_type, factor),
    };
    Ok(Some(RopeParameters { rope_type: Some(rope_type.to_owned()), factor, ..RopeParameters::default() }))
}

fn check_rotary_dim(metadata: &Metadata, config: &Config) -> Result<(), SpecError> {
    let key = "llama.rope.dimension_count";
    let Some(rotary_dim) = optional(metadata, key)? else { return Ok(()) };
    let head_dim = config.head_dim.or_else(|| config.hidden_size.checked_div(config.num_attention_heads));
    if Some(rotary_dim) != head_dim {
        return Err(unsupported(key, rotary_dim.to_string(), "only the whole head can be rotated"));
    }
    Ok(())
}
