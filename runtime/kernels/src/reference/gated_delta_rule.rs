//! The gated delta rule, token by token.

use super::gated_activation::sigmoid;
use crate::DeltaNetShape;

/// Added to the squared length of queries and keys.
const LENGTH_EPS: f32 = 1e-6;

/// One layer of a sequence.
pub(super) struct DeltaRule<'a> {
    /// Sizes.
    pub shape: DeltaNetShape,
    /// `[num_value_heads]`: logarithm of the decay's rate.
    pub a_log: &'a [f32],
    /// `[num_value_heads]`: added to alpha.
    pub dt_bias: &'a [f32],
}

/// One token.
pub(super) struct DeltaToken<'a> {
    /// `[conv_channels]`: queries, keys, values.
    pub qkv: &'a [f32],
    /// `[num_value_heads]`: logits of the step size.
    pub beta: &'a [f32],
    /// `[num_value_heads]`.
    pub alpha: &'a [f32],
}

/// Takes one token into `memory`, `[num_value_heads, key_dim, value_dim]`, and reads `output` from it,
/// `[num_value_heads * value_dim]`. Neighbouring value heads share a head of queries and keys.
///
/// # Source
/// Yang et al. 2024, arXiv:2412.06464; which norms and scales there are is `Qwen3NextGatedDeltaNet` in Hugging Face
/// `transformers`.
pub(super) fn gated_delta_rule(rule: &DeltaRule<'_>, token: &DeltaToken<'_>, memory: &mut [f32], output: &mut [f32]) {
    let DeltaNetShape { num_key_heads, num_value_heads, key_dim, value_dim, .. } = rule.shape;
    let (queries, rest) = token.qkv.split_at(num_key_heads * key_dim);
    let (keys, values) = rest.split_at(num_key_heads * key_dim);
    let heads = memory.chunks_exact_mut(key_dim * value_dim).zip(output.chunks_exact_mut(value_dim));
    for (head, (memory, output)) in heads.enumerate() {
        let key_head = head / (num_value_heads / num_key_heads);
        let key_lanes = key_head * key_dim..(key_head + 1) * key_dim;
        let query = normalised(&queries[key_lanes.clone()], 1.0 / (key_dim as f32).sqrt());
        let key = normalised(&keys[key_lanes], 1.0);
        let decay = (-rule.a_log[head].exp() * softplus(token.alpha[head] + rule.dt_bias[head])).exp();
        memory.iter_mut().for_each(|element| *element *= decay);
        let recalled = read(memory, &key);
        let beta = sigmoid(token.beta[head]);
        let value = &values[head * value_dim..(head + 1) * value_dim];
        let correction: Vec<f32> =
            value.iter().zip(&recalled).map(|(value, recalled)| (value - recalled) * beta).collect();
        for (row, key) in memory.chunks_exact_mut(value_dim).zip(&key) {
            row.iter_mut().zip(&correction).for_each(|(element, correction)| *element += key * correction);
        }
        output.copy_from_slice(&read(memory, &query));
    }
}

/// The vector made of length 1, times `scale`.
fn normalised(vector: &[f32], scale: f32) -> Vec<f32> {
    let length = (vector.iter().map(|x| x * x).sum::<f32>() + LENGTH_EPS).sqrt();
    vector.iter().map(|x| x / length * scale).collect()
}

/// The sum of the memory's rows, `[key_dim, value_dim]`, each by its element of `key`.
fn read(memory: &[f32], key: &[f32]) -> Vec<f32> {
    let value_dim = memory.len() / key.len();
    let mut sum = vec![0.0; value_dim];
    for (row, key) in memory.chunks_exact(value_dim).zip(key) {
        sum.iter_mut().zip(row).for_each(|(sum, element)| *sum += key * element);
    }
    sum
}

/// `ln(1 + e^x)`.
fn softplus(x: f32) -> f32 {
    // Above, both are the same number in f32.
    if x > 20.0 { x } else { x.exp().ln_1p() }
}

#[cfg(test)]
mod tests {
    use super::{DeltaRule, DeltaToken, gated_delta_rule};
    use crate::DeltaNetShape;

    const SHAPE: DeltaNetShape =
        DeltaNetShape { num_key_heads: 1, num_value_heads: 2, key_dim: 2, value_dim: 1, conv_kernel: 4 };

    /// Outputs and the memory of both heads; alpha is the same everywhere, beta is sure.
    fn run(alpha: f32, tokens: &[[f32; 6]]) -> (Vec<[f32; 2]>, [f32; 4]) {
        // Rate 1.
        let rule = DeltaRule { shape: SHAPE, a_log: &[0.0; 2], dt_bias: &[0.5; 2] };
        let mut memory = [0.0; 4];
        let outputs = tokens.iter().map(|qkv| {
            let mut output = [9.0; 2];
            let token = DeltaToken { qkv, beta: &[40.0; 2], alpha: &[alpha; 2] };
            gated_delta_rule(&rule, &token, &mut memory, &mut output);
            output
        });
        (outputs.collect(), memory)
    }

    fn near(found: &[f32], expected: &[f32]) {
        let is_near = |(found, expected): (&f32, &f32)| (found - expected).abs() < 3e-5;
        assert!(found.iter().zip(expected).all(is_near), "{found:?}, expected {expected:?}");
    }

    #[test]
    fn a_key_recalls_its_last_value_whatever_its_length() {
        let by = 1.0 / 2f32.sqrt();
        // Softplus of -60 is 0: nothing is forgotten.
        let (outputs, memory) = run(
            -60.5,
            &[
                // Query, key, values of both heads.
                [7.0, 0.0, 3.0, 0.0, 5.0, -4.0],
                [7.0, 0.0, 0.0, 2.0, 1.0, 1.0],
                [5.0, 0.0, 9.0, 0.0, 6.0, 8.0],
            ],
        );
        near(outputs.as_flattened(), &[5.0 * by, -4.0 * by, 5.0 * by, -4.0 * by, 6.0 * by, 8.0 * by]);
        near(&memory, &[6.0, 1.0, 8.0, 1.0]);
    }

    #[test]
    fn memory_decays_by_alpha_and_its_bias() {
        let by = 1.0 / 2f32.sqrt();
        // Softplus of ln(e - 1) is 1, so e^-1 is left after each further token.
        let alpha = (std::f32::consts::E - 1.0).ln() - 0.5;
        let (outputs, _) = run(alpha, &[[1.0, 0.0, 1.0, 0.0, 5.0, 2.0], [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]]);
        let left = (-1f32).exp();
        near(&outputs[1], &[5.0 * left * by, 2.0 * left * by]);
    }

    #[test]
    fn steps_are_as_large_as_beta_says_and_the_decay_has_a_rate_by_head() {
        let rule = DeltaRule { shape: SHAPE, a_log: &[0.0, 2f32.ln()], dt_bias: &[0.0; 2] };
        let mut memory = [4.0, 0.0, 4.0, 0.0];
        let mut output = [0.0; 2];
        let token = DeltaToken { qkv: &[1.0, 0.0, 1.0, 0.0, 10.0, 10.0], beta: &[0.0; 2], alpha: &[0.0; 2] };
        gated_delta_rule(&rule, &token, &mut memory, &mut output);
        // Softplus of 0 is ln 2: a half is left, or a quarter at twice the rate; the step is a half.
        near(&memory, &[2.0 + (10.0 - 2.0) / 2.0, 0.0, 1.0 + (10.0 - 1.0) / 2.0, 0.0]);
    }
}
