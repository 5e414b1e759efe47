//! Rows of the embedding matrix by token id, from its packed form: a tied matrix is held once.
#![allow(unsafe_code)]

use super::packed::PackedMatrix;
use super::rows::RowsView;

/// `output[row] = weight[token]` for one row.
pub(super) fn embed_token(weight: &PackedMatrix, token: u32, output: RowsView<'_>, row: usize) {
    // SAFETY: each row is one task's.
    weight.row_into(token as usize, unsafe { output.row_mut(row) });
}
