//! The only place that says no to a [`DecoderConfig`].

use kindling_kernels::RopeScaling;

use super::{DecoderConfig, rope};
use crate::architecture::SpecError;

/// What a checked config says, with defaults filled in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Dimensions {
    pub num_kv_heads: usize,
    pub head_dim: usize,
    pub rope_theta: f32,
    pub rope_scaling: Option<RopeScaling>,
}

/// Bounds far beyond any model, so that no product of two overflows.
pub(super) const MAX_WIDTH: usize = 1 << 22;
const MAX_LAYERS: usize = 4096;
const MAX_HEADS: usize = 1 << 14;
const MAX_HEAD_DIM: usize = 1 << 14;
const MAX_VOCAB: usize = 1 << 24;
const MAX_CONTEXT: usize = 1 << 30;
/// `transformers`' default for most families.
const DEFAULT_ROPE_THETA: f64 = 10_000.0;

/// Checks every figure of the config.
///
/// # Errors
/// [`SpecError::OutOfRange`] or [`SpecError::Unsupported`] with the key and its value.
pub(super) fn dimensions(config: &DecoderConfig) -> Result<Dimensions, SpecError> {
    refuse_variants(config)?;
    between("hidden_size", config.hidden_size, MAX_WIDTH)?;
    between("intermediate_size", config.intermediate_size, MAX_WIDTH)?;
    between("num_hidden_layers", config.num_hidden_layers, MAX_LAYERS)?;
    between("num_attention_heads", config.num_attention_heads, MAX_HEADS)?;
    between("vocab_size", config.vocab_size, MAX_VOCAB)?;
    between("max_position_embeddings", config.max_position_embeddings, MAX_CONTEXT)?;
    let num_kv_heads = config.num_key_value_heads.unwrap_or(config.num_attention_heads);
    between("num_key_value_heads", num_kv_heads, config.num_attention_heads)?;
    if !config.num_attention_heads.is_multiple_of(num_kv_heads) {
        let expected = format!("not a divisor of num_attention_heads {}", config.num_attention_heads);
        return Err(SpecError::out_of_range("num_key_value_heads", num_kv_heads, expected));
    }
    let head_dim = head_dim(config)?;
    if !(config.rms_norm_eps >= f64::from(f32::MIN_POSITIVE) && config.rms_norm_eps < 1.0) {
        return Err(SpecError::out_of_range("rms_norm_eps", config.rms_norm_eps, "between 0 and 1 is possible"));
    }
    let rope = config.rope_parameters.as_ref().or(config.rope_scaling.as_ref());
    let rope_theta = rope.and_then(|rope| rope.rope_theta).or(config.rope_theta).unwrap_or(DEFAULT_ROPE_THETA);
    positive("rope_theta", rope_theta)?;
    let rope_scaling = rope.map_or(Ok(None), |rope| rope::scaling(rope, config.max_position_embeddings))?;
    Ok(Dimensions { num_kv_heads, head_dim, rope_theta: rope_theta as f32, rope_scaling })
}

fn refuse_variants(config: &DecoderConfig) -> Result<(), SpecError> {
    if !matches!(config.hidden_act.as_str(), "silu" | "swish") {
        return Err(SpecError::unsupported("hidden_act", &config.hidden_act, "only silu is"));
    }
    let of_rope = config.rope_parameters.as_ref().and_then(|rope| rope.partial_rotary_factor);
    match config.partial_rotary_factor.or(of_rope) {
        Some(factor) if factor != 1.0 => Err(SpecError::unsupported(
            "partial_rotary_factor",
            &factor.to_string(),
            "only the whole head can be rotated",
        )),
        _ => Ok(()),
    }
}

fn head_dim(config: &DecoderConfig) -> Result<usize, SpecError> {
    let (hidden_size, num_heads) = (config.hidden_size, config.num_attention_heads);
    let head_dim = match config.head_dim {
        Some(head_dim) => head_dim,
        None if hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
        None => {
            let expected = format!("not a multiple of num_attention_heads {num_heads}, and head_dim is not given");
            return Err(SpecError::out_of_range("hidden_size", hidden_size, expected));
        }
    };
    between("head_dim", head_dim, MAX_HEAD_DIM)?;
    if !head_dim.is_multiple_of(2) {
        return Err(SpecError::out_of_range("head_dim", head_dim, "odd, rotary embeddings need pairs"));
    }
    Ok(head_dim)
}

/// # Errors
/// [`SpecError::OutOfRange`] unless `found` is in `1..=max`.
pub(crate) fn between(key: &str, found: usize, max: usize) -> Result<(), SpecError> {
    if (1..=max).contains(&found) {
        return Ok(());
    }
    Err(SpecError::out_of_range(key, found, format!("1 to {max} is possible")))
}

/// # Errors
/// [`SpecError::OutOfRange`] unless `found` is a normal f32 above 0.
pub(crate) fn positive(key: &str, found: f64) -> Result<(), SpecError> {
    if found >= f64::from(f32::MIN_POSITIVE) && found <= f64::from(f32::MAX) {
        return Ok(());
    }
    Err(SpecError::out_of_range(key, found, "a positive number is needed"))
}
