//! Changes of the rotary frequencies.
//!
//! # Source
//! Hugging Face `transformers`, `modeling_rope_utils.py`; YaRN is Peng et al. 2023, arXiv:2309.00071.

use kindling_kernels::RopeScaling;

use super::{RopeParameters, positive};
use crate::architecture::SpecError;

/// What the parameters say.
///
/// # Errors
/// [`SpecError`] naming the key that is missing, out of range or unknown.
pub(crate) fn scaling(rope: &RopeParameters, max_position: usize) -> Result<Option<RopeScaling>, SpecError> {
    if let Some((key, value)) = rope.unknown.iter().find(|(_, value)| !value.is_null()) {
        let key = format!("rope_parameters.{key}");
        return Err(SpecError::unsupported(&key, &value.to_string(), "its effect is not known"));
    }
    match rope.rope_type.as_deref() {
        None | Some("default") => Ok(None),
        Some("linear") => Ok(Some(RopeScaling::Linear { factor: needed("factor", rope.factor)? })),
        Some("llama3") => llama3(rope, max_position).map(Some),
        Some("yarn") => yarn(rope, max_position).map(Some),
        Some(other) => {
            Err(SpecError::unsupported("rope_scaling type", other, "only default, linear, llama3 and yarn are"))
        }
    }
}

fn needed(key: &str, value: Option<f64>) -> Result<f32, SpecError> {
    let key = format!("rope_scaling.{key}");
    let value = value.ok_or_else(|| SpecError::MissingKey { key: key.clone() })?;
    positive(&key, value).map(|()| value as f32)
}

fn llama3(rope: &RopeParameters, max_position: usize) -> Result<RopeScaling, SpecError> {
    let original = rope.original_max_position_embeddings.unwrap_or(max_position as f64);
    let low_freq_factor = needed("low_freq_factor", rope.low_freq_factor)?;
    let high_freq_factor = needed("high_freq_factor", rope.high_freq_factor)?;
    if low_freq_factor >= high_freq_factor {
        let expected = format!("not below high_freq_factor {high_freq_factor}");
        return Err(SpecError::out_of_range("rope_scaling.low_freq_factor", low_freq_factor, expected));
    }
    let factor = needed("factor", rope.factor)?;
    let original_context = needed("original_max_position_embeddings", Some(original))?;
    Ok(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context })
}

fn yarn(rope: &RopeParameters, max_position: usize) -> Result<RopeScaling, SpecError> {
    let original = rope.original_max_position_embeddings.unwrap_or(max_position as f64);
    let original_context = needed("original_max_position_embeddings", Some(original))?;
    let factor = rope.factor.unwrap_or(max_position as f64 / original);
    let attention_factor = rope.attention_factor.unwrap_or(match (rope.mscale, rope.mscale_all_dim) {
        (Some(scale), Some(all)) if scale != 0.0 && all != 0.0 => sharpening(factor, scale) / sharpening(factor, all),
        _ => sharpening(factor, 1.0),
    });
    Ok(RopeScaling::Yarn {
        factor: needed("factor", Some(factor))?,
        beta_fast: needed("beta_fast", Some(rope.beta_fast.unwrap_or(32.0)))?,
        beta_slow: needed("beta_slow", Some(rope.beta_slow.unwrap_or(1.0)))?,
        original_context,
        attention_factor: needed("attention_factor", Some(attention_factor))?,
        truncate: rope.truncate.unwrap_or(true),
    })
}

/// How much YaRN sharpens scores: arXiv:2309.00071, section 3.4.
pub(super) fn sharpening(factor: f64, weight: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 }
}

#[cfg(test)]
mod tests {
    use kindling_kernels::RopeScaling;
    use serde_json::{Value, json};

    use super::{RopeParameters, scaling, sharpening};

    fn yarn(extra: Value) -> RopeScaling {
        let mut parameters = json!({"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096});
        for (key, value) in extra.as_object().unwrap() {
            parameters[key] = value.clone();
        }
        let parameters: RopeParameters = serde_json::from_value(parameters).unwrap();
        scaling(&parameters, 131_072).unwrap().unwrap()
    }

    fn attention_factor(scaling: RopeScaling) -> f32 {
        match scaling {
            RopeScaling::Yarn { attention_factor, .. } => attention_factor,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn yarn_has_the_defaults_of_transformers() {
        let expected = RopeScaling::Yarn {
            factor: 32.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            original_context: 4096.0,
            attention_factor: 1.346_573_6,
            truncate: true,
        };
        assert_eq!(yarn(json!({})), expected);
    }

    #[test]
    fn the_attention_factor_is_given_or_follows_from_both_mscales() {
        assert_eq!(attention_factor(yarn(json!({"attention_factor": 1.25}))), 1.25);
        assert_eq!(attention_factor(yarn(json!({"mscale": 1.0, "mscale_all_dim": 1.0}))), 1.0);
        let expected = sharpening(32.0, 0.5) / sharpening(32.0, 2.0);
        assert_eq!(attention_factor(yarn(json!({"mscale": 0.5, "mscale_all_dim": 2.0}))), expected as f32);
        assert_eq!(attention_factor(yarn(json!({"mscale": 0.5}))), attention_factor(yarn(json!({}))));
        assert_eq!(sharpening(0.5, 1.0), 1.0);
    }

    #[test]
    fn without_a_factor_it_is_the_growth_of_the_context() {
        let scaled = yarn(json!({"factor": null}));
        assert!(matches!(scaled, RopeScaling::Yarn { factor: 32.0, .. }), "{scaled:?}");
    }

    #[test]
    fn parameters_of_unknown_effect_are_refused_by_name() {
        for (key, value) in [("mrope_section", json!([1, 2])), ("full_attention", json!({"rope_theta": 1.0}))] {
            let parameters: RopeParameters = serde_json::from_value(json!({key: value})).unwrap();
            let message = scaling(&parameters, 512).unwrap_err().to_string();
            assert!(message.contains(&format!("rope_parameters.{key}")), "{message}");
        }
    }
}
