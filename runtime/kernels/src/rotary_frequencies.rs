//! The frequencies of a rotary table, with the checkpoint's scaling applied. Used by every backend.

use std::f64::consts::TAU;

use crate::{RopeScaling, RotarySpec};

/// What cosines and sines are multiplied with: YaRN sharpens the scores by it.
pub fn rotary_attention_factor(spec: &RotarySpec) -> f32 {
    match spec.scaling {
        Some(RopeScaling::Yarn { attention_factor, .. }) => attention_factor,
        _ => 1.0,
    }
}

/// Radians per position of each rotated pair: `[rotary_dim / 2]`.
///
/// `factors` are the checkpoint's own divisors (`rope_freqs.weight`), `[rotary_dim / 2]`, where it has any.
///
/// # Source
/// Su et al. 2021, arXiv:2104.09864; the piecewise scaling is that of Llama 3.1's published code.
///
/// ```
/// use kindling_kernels::{RotarySpec, RotaryStyle, rotary_frequencies::rotary_frequencies};
/// let spec = RotarySpec {
///     rotary_dim: 4, theta: 10000.0, style: RotaryStyle::Half, scaling: None, frequency_factors: None,
/// };
/// assert_eq!(rotary_frequencies(&spec, None), [1.0, 0.01]);
/// assert_eq!(rotary_frequencies(&spec, Some(&[1.0, 4.0])), [1.0, 0.0025]);
/// ```
pub fn rotary_frequencies(spec: &RotarySpec, factors: Option<&[f32]>) -> Vec<f32> {
    let num_pairs = spec.rotary_dim / 2;
    (0..num_pairs)
        .map(|pair| {
            let exponent = -2.0 * pair as f64 / spec.rotary_dim as f64;
            let unscaled = f64::from(spec.theta).powf(exponent);
            let frequency = match spec.scaling {
                Some(scaling @ RopeScaling::Yarn { .. }) => yarn(spec, scaling, pair, unscaled),
                Some(RopeScaling::Proportional { rotated_pairs, .. }) if pair >= rotated_pairs => 0.0,
                scaling => scaled(unscaled, scaling),
            };
            let factor = factors.and_then(|factors| factors.get(pair)).copied().unwrap_or(1.0);
            (frequency / f64::from(factor)) as f32
        })
        .collect()
}

/// Peng et al. 2023, arXiv:2309.00071, section 3.2: pairs that turn often stay, pairs that turn seldom are divided,
/// those between are a mixture.
fn yarn(spec: &RotarySpec, scaling: RopeScaling, pair: usize, frequency: f64) -> f64 {
    let RopeScaling::Yarn { factor, beta_fast, beta_slow, original_context, truncate, .. } = scaling else {
        return frequency;
    };
    let dim = spec.rotary_dim as f64;
    // The pair that turns so many times over the original context.
    let pair_of = |turns: f32| {
        dim * (f64::from(original_context) / (f64::from(turns) * TAU)).ln() / (2.0 * f64::from(spec.theta).ln())
    };
    let (low, high) = (pair_of(beta_fast), pair_of(beta_slow));
    let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
    let (low, high) = (low.max(0.0), high.min(dim - 1.0));
    let high = if low >= high { low + 0.001 } else { high };
    let divided = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
    frequency * (1.0 - divided) + frequency / f64::from(factor) * divided
}

fn scaled(frequency: f64, scaling: Option<RopeScaling>) -> f64 {
    match scaling {
        None | Some(RopeScaling::Yarn { .. }) => frequency,
        Some(RopeScaling::Linear { factor } | RopeScaling::Proportional { factor, .. }) => {
            frequency / f64::from(factor)
        }
        Some(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context }) => {
            let (factor, low, high) = (f64::from(factor), f64::from(low_freq_factor), f64::from(high_freq_factor));
            let turns = f64::from(original_context) * frequency / TAU;
            if turns < low {
                frequency / factor
            } else if turns > high {
                frequency
            } else {
                let smooth = (turns - low) / (high - low);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        }
    }
}

/// Cosine and sine of every pair at one position: `[rotary_dim / 2]` each.
pub fn rotary_angles_into(frequencies: &[f32], position: u32, cosines: &mut [f32], sines: &mut [f32]) {
    for ((frequency, cosine), sine) in frequencies.iter().zip(cosines).zip(sines) {
        let angle = position as f32 * frequency;
        (*sine, *cosine) = angle.sin_cos();
    }
}

#[cfg(test)]
mod tests {
    use super::rotary_frequencies;
    use crate::{RopeScaling, RotarySpec, RotaryStyle};

    fn spec(scaling: RopeScaling) -> RotarySpec {
        RotarySpec {
            rotary_dim: 64,
            theta: 500_000.0,
            style: RotaryStyle::Half,
            scaling: Some(scaling),
            frequency_factors: None,
        }
    }

    #[test]
    fn linear_scaling_divides_every_frequency() {
        let frequencies = rotary_frequencies(&spec(RopeScaling::Linear { factor: 4.0 }), None);
        assert_eq!(frequencies[0], 0.25);
    }

    #[test]
    fn proportional_scaling_leaves_the_slow_pairs_alone() {
        let plain = rotary_frequencies(&spec(RopeScaling::Linear { factor: 2.0 }), None);
        let scaled = rotary_frequencies(&spec(RopeScaling::Proportional { factor: 2.0, rotated_pairs: 8 }), None);
        assert_eq!((&scaled[..8], &scaled[8..]), (&plain[..8], &[0.0; 24][..]));
    }

    #[test]
    fn llama3_scaling_keeps_high_and_divides_low_frequencies() {
        let scaling =
            RopeScaling::Llama3 { factor: 32.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192.0 };
        let (plain, scaled) = (
            rotary_frequencies(&spec(RopeScaling::Linear { factor: 1.0 }), None),
            rotary_frequencies(&spec(scaling), None),
        );
        assert_eq!(scaled[0], plain[0]);
        assert!((scaled[31] * 32.0 / plain[31] - 1.0).abs() < 1e-6);
        let middle = scaled.iter().zip(&plain).filter(|(s, p)| **s < **p && **s > **p / 31.9).count();
        assert!(middle > 0, "some frequencies lie between the borders");
    }
}
