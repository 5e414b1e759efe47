//! The gate of a feed-forward part.

use crate::Activation;

/// `output = activation(gate) * up`, element by element; all of the same length.
pub(super) fn gated_activation(gate: &[f32], up: &[f32], activation: Activation, output: &mut [f32]) {
    for ((gate, up), output) in gate.iter().zip(up).zip(output) {
        *output = match activation {
            Activation::Silu => gate / (1.0 + (-gate).exp()) * up,
        };
    }
}
