//! Matrix product with a dequantised weight.

/// What a linear layer reads.
pub(super) struct LinearInput<'a> {
    /// `[rows, row_len]`.
    pub rows: &'a [f32],
    /// `in_features`.
    pub row_len: usize,
    /// `[out_features, in_features]`.
    pub weight: &'a [f32],
    /// `[out_features]`.
    pub bias: Option<&'a [f32]>,
}

/// `output = rows * weight^T + bias`; `output`: `[rows, out_features]`.
pub(super) fn linear(input: &LinearInput<'_>, output: &mut [f32]) {
    let out_features = input.weight.len() / input.row_len;
    for (row, sums) in input.rows.chunks_exact(input.row_len).zip(output.chunks_exact_mut(out_features)) {
        for (feature, sum) in sums.iter_mut().enumerate() {
            let weights = &input.weight[feature * input.row_len..(feature + 1) * input.row_len];
            let dot: f32 = row.iter().zip(weights).map(|(x, w)| x * w).sum();
            *sum = dot + input.bias.map_or(0.0, |bias| bias[feature]);
        }
    }
}
