//! Keeps the rows whose logits are wanted.

/// `output[i] = input[logit_indices[i]]`, rows of `row_len`.
pub(super) fn gather_logit_rows(input: &[f32], row_len: usize, logit_indices: &[usize], output: &mut [f32]) {
    for (index, row) in logit_indices.iter().zip(output.chunks_exact_mut(row_len)) {
        row.copy_from_slice(&input[index * row_len..(index + 1) * row_len]);
    }
}
