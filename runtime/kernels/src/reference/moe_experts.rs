//! The weighted sum of the chosen experts.

use super::gated_activation::activate;
use super::linear::{LinearInput, linear};
use crate::Activation;

/// Matrices of all experts, dequantised.
pub(super) struct MoeExperts<'a> {
    /// `[num_experts, intermediate_size, hidden_size]`.
    pub gate: &'a [f32],
    /// Same shape.
    pub up: &'a [f32],
    /// `[num_experts, hidden_size, intermediate_size]`.
    pub down: &'a [f32],
    /// `[num_experts, intermediate_size]`.
    pub gate_bias: Option<&'a [f32]>,
    /// `[num_experts, intermediate_size]`.
    pub up_bias: Option<&'a [f32]>,
    /// `[num_experts, hidden_size]`.
    pub down_bias: Option<&'a [f32]>,
    /// Of every expert.
    pub activation: Activation,
    /// Their number.
    pub num_experts: usize,
    /// Elements of a token.
    pub hidden_size: usize,
}

/// `output = sum over experts with a route of route * down(activation(gate(x), up(x)))`, token by token, in order of
/// expert; `input`, `output`: `[num_tokens, hidden_size]`, `routes`: `[num_tokens, num_experts]`.
pub(super) fn moe_experts(experts: &MoeExperts<'_>, input: &[f32], routes: &[f32], output: &mut [f32]) {
    let MoeExperts { num_experts, hidden_size, activation, .. } = *experts;
    let intermediate_size = experts.gate.len() / num_experts / hidden_size;
    let (mut gate, mut up) = (vec![0.0; intermediate_size], vec![0.0; intermediate_size]);
    let mut result = vec![0.0; hidden_size];
    let tokens = input.chunks_exact(hidden_size).zip(routes.chunks_exact(num_experts));
    for ((token, routes), output) in tokens.zip(output.chunks_exact_mut(hidden_size)) {
        output.fill(0.0);
        for (expert, route) in routes.iter().enumerate().filter(|(_, route)| **route != 0.0) {
            let matrix = |weight, bias, row_len| (of_expert(weight, expert, num_experts), bias, row_len);
            let bias = |bias: Option<&'_ [f32]>| bias.map(|bias| of_expert(bias, expert, num_experts).to_vec());
            apply(matrix(experts.gate, bias(experts.gate_bias), hidden_size), token, &mut gate);
            apply(matrix(experts.up, bias(experts.up_bias), hidden_size), token, &mut up);
            for (gate, up) in gate.iter_mut().zip(&up) {
                *gate = activate(activation, *gate, *up);
            }
            apply(matrix(experts.down, bias(experts.down_bias), intermediate_size), &gate, &mut result);
            for (sum, value) in output.iter_mut().zip(&result) {
                *sum += route * value;
            }
        }
    }
}

/// The expert's share of a stacked weight.
fn of_expert(stacked: &[f32], expert: usize, num_experts: usize) -> &[f32] {
    let len = stacked.len() / num_experts;
    &stacked[expert * len..(expert + 1) * len]
}

fn apply((weight, bias, row_len): (&[f32], Option<Vec<f32>>, usize), row: &[f32], output: &mut [f32]) {
    linear(&LinearInput { rows: row, row_len, weight, bias: bias.as_deref() }, output);
}

#[cfg(test)]
mod tests {
    use super::{MoeExperts, moe_experts};
    use crate::Activation;

    #[test]
    fn only_experts_with_a_route_add_to_the_sum() {
        // One element everywhere: expert e gives silu(x * gate) * (x * up) * down + bias.
        let experts = MoeExperts {
            gate: &[1.0, 1.0, f32::NAN],
            up: &[1.0, 2.0, 1.0],
            down: &[1.0, 1.0, 1.0],
            gate_bias: None,
            up_bias: None,
            down_bias: Some(&[0.0, 10.0, 0.0]),
            activation: Activation::Silu,
            num_experts: 3,
            hidden_size: 1,
        };
        let mut output = [0.0];
        moe_experts(&experts, &[1.0], &[0.25, 0.75, 0.0], &mut output);
        let silu = 1.0 / (1.0 + (-1f32).exp());
        assert!((output[0] - (0.25 * silu + 0.75 * (2.0 * silu + 10.0))).abs() < 1e-6, "{output:?}");
    }
}
