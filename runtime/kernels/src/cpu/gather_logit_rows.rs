//! Keeps the rows whose logits are wanted.
#![allow(unsafe_code)]

use super::rows::RowsView;

/// `output[i] = input[logit_indices[i]]`.
pub(super) fn gather_logit_rows(input: RowsView<'_>, logit_indices: &[usize], output: RowsView<'_>) {
    for (row, index) in logit_indices.iter().enumerate() {
        // SAFETY: the two buffers differ and nobody else is at work.
        unsafe { output.row_mut(row).copy_from_slice(input.rows(*index..index + 1)) };
    }
}
