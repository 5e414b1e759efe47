//! Normalisation by the root mean square.

/// `output = input / sqrt(mean(input^2) + eps) * weight` by row; `weight`: `[width]`, the others `[rows, width]`.
///
/// # Source
/// Zhang and Sennrich 2019, arXiv:1910.07467.
pub(super) fn rms_norm(input: &[f32], weight: &[f32], eps: f32, output: &mut [f32]) {
    let width = weight.len();
    for (row, normed) in input.chunks_exact(width).zip(output.chunks_exact_mut(width)) {
        let mean_square = row.iter().map(|x| x * x).sum::<f32>() / width as f32;
        let scale = 1.0 / (mean_square + eps).sqrt();
        for ((normed, x), w) in normed.iter_mut().zip(row).zip(weight) {
            *normed = x * scale * w;
        }
    }
}
