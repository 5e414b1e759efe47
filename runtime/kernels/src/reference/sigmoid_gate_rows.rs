//! The gate of a shared expert.

use super::gated_activation::sigmoid;

/// `output[row] *= sigmoid(gate[row])`; `gate`: `[rows, 1]`, `output`: `[rows, width]`.
pub(super) fn sigmoid_gate_rows(gate: &[f32], output: &mut [f32]) {
    let width = output.len() / gate.len().max(1);
    for (gate, row) in gate.iter().zip(output.chunks_exact_mut(width.max(1))) {
        row.iter_mut().for_each(|value| *value *= sigmoid(*gate));
    }
}
