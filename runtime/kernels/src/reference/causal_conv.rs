//! Causal depthwise convolution over the tokens of a sequence.

use super::gated_activation::sigmoid;

/// `rows`: `[num_tokens, channels]` of one sequence, in place; `weight`: `[channels, taps]`, the newest token last;
/// `kept`: `[taps - 1, channels]`, the inputs before these rows, oldest first, and afterwards the last of these.
///
/// # Source
/// Hugging Face `transformers`, `Qwen3NextGatedDeltaNet`: a convolution without bias, then SiLU.
pub(super) fn causal_conv(rows: &mut [f32], weight: &[f32], kept: &mut [f32], taps: usize) {
    let channels = weight.len() / taps;
    let inputs: Vec<f32> = kept.iter().chain(rows.iter()).copied().collect();
    for (token, row) in rows.chunks_exact_mut(channels).enumerate() {
        for (channel, output) in row.iter_mut().enumerate() {
            let input = |tap| inputs[(token + tap) * channels + channel];
            let sum: f32 = (0..taps).map(|tap| weight[channel * taps + tap] * input(tap)).sum();
            *output = sum * sigmoid(sum);
        }
    }
    kept.copy_from_slice(&inputs[inputs.len() - kept.len()..]);
}

#[cfg(test)]
mod tests {
    use super::causal_conv;

    fn silu(x: f32) -> f32 {
        x * (1.0 / (1.0 + (-x).exp()))
    }

    #[test]
    fn each_channel_sees_its_own_last_inputs_wherever_the_rows_are_cut() {
        // Two channels, three taps.
        let weight = [1.0, 2.0, 3.0, 0.5, 0.0, -1.0];
        let inputs = [1.0, 10.0, 2.0, 20.0, 3.0, 30.0, 4.0, 40.0];
        let expected = [3.0, -10.0, 8.0, -20.0, 14.0, -25.0, 20.0, -30.0].map(silu);
        for cut in 0..=4 {
            let mut kept = [0.0; 4];
            let mut rows = inputs;
            let (first, second) = rows.split_at_mut(2 * cut);
            causal_conv(first, &weight, &mut kept, 3);
            causal_conv(second, &weight, &mut kept, 3);
            assert_eq!(rows, expected, "cut at {cut}");
            assert_eq!(kept, [3.0, 30.0, 4.0, 40.0], "the inputs are kept, not what came out");
        }
    }
}
