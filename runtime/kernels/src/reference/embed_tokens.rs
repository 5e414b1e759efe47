//! Rows of the embedding matrix by token id.

/// `output[t] = weight[token_ids[t]]`; `weight`: `[vocab_size, hidden_size]`, `output`: `[num_tokens, hidden_size]`.
pub(super) fn embed_tokens(token_ids: &[u32], weight: &[f32], output: &mut [f32]) {
    let hidden_size = output.len() / token_ids.len().max(1);
    for (token, row) in token_ids.iter().zip(output.chunks_exact_mut(hidden_size.max(1))) {
        let start = *token as usize * hidden_size;
        row.copy_from_slice(&weight[start..start + hidden_size]);
    }
}
