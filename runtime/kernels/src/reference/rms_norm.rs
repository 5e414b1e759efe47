//! Normalisation by the root mean square.

/// How elements are normalised.
pub(super) struct NormSpec<'a> {
    /// `[group_width]`; `None` multiplies by 1.
    pub weight: Option<&'a [f32]>,
    /// Added to the mean square.
    pub eps: f32,
    /// Added to the weight.
    pub weight_offset: f32,
    /// Elements normalised together.
    pub group_width: usize,
}

/// `output = input / sqrt(mean(input^2) + eps) * (weight + weight_offset)` by group; both of the same length.
///
/// # Source
/// Zhang and Sennrich 2019, arXiv:1910.07467.
pub(super) fn rms_norm(input: &[f32], spec: &NormSpec<'_>, output: &mut [f32]) {
    let NormSpec { weight, eps, weight_offset, group_width } = *spec;
    for (group, normed) in input.chunks_exact(group_width).zip(output.chunks_exact_mut(group_width)) {
        let mean_square = group.iter().map(|x| x * x).sum::<f32>() / group_width as f32;
        let scale = 1.0 / (mean_square + eps).sqrt();
        for (index, (normed, x)) in normed.iter_mut().zip(group).enumerate() {
            let weight = weight.map_or(1.0, |weight| weight[index] + weight_offset);
            *normed = x * scale * weight;
        }
    }
}
