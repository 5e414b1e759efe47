//! A gate and the values beside it.

use crate::Activation;

/// `output = activation(gate, up)`, element by element; all of the same length.
pub(super) fn gated_activation(gate: &[f32], up: &[f32], activation: Activation, output: &mut [f32]) {
    for ((gate, up), output) in gate.iter().zip(up).zip(output) {
        *output = activate(activation, *gate, *up);
    }
}

/// One element.
///
/// # Source
/// GELU: Hendrycks and Gimpel 2016, arXiv:1606.08415, the tanh form; the clamped form is gpt-oss's published code.
pub(super) fn activate(activation: Activation, gate: f32, up: f32) -> f32 {
    match activation {
        Activation::Silu => gate * sigmoid(gate) * up,
        Activation::GeluTanh => {
            let inner = (2.0 / std::f32::consts::PI).sqrt() * (gate + 0.044_715 * gate * gate * gate);
            0.5 * gate * (1.0 + inner.tanh()) * up
        }
        Activation::Sigmoid => sigmoid(gate) * up,
        Activation::ClampedSwiglu { alpha, limit } => {
            let (gate, up) = (gate.min(limit), up.clamp(-limit, limit));
            gate * sigmoid(alpha * gate) * (up + 1.0)
        }
    }
}

/// `1 / (1 + e^-x)`.
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
