//! Rotary position embedding.

use crate::RotaryStyle;
use crate::rotary_frequencies::rotary_angles_into;

/// Which elements turn together, and how fast.
pub(super) struct RotaryTable<'a> {
    /// Pairs.
    pub style: RotaryStyle,
    /// Radians per position, `[rotary_dim / 2]`.
    pub frequencies: &'a [f32],
    /// Multiplies what is rotated.
    pub attention_factor: f32,
}

/// Rotates the leading `2 * frequencies.len()` elements of each head in `row`, `[num_heads * head_dim]`, in place.
///
/// # Source
/// Su et al. 2021, arXiv:2104.09864.
pub(super) fn rotary(row: &mut [f32], head_dim: usize, table: &RotaryTable<'_>, position: u32) {
    let RotaryTable { style, frequencies, attention_factor } = *table;
    let num_pairs = frequencies.len();
    let (mut cosines, mut sines) = (vec![0.0; num_pairs], vec![0.0; num_pairs]);
    rotary_angles_into(frequencies, position, &mut cosines, &mut sines);
    for head in row.chunks_exact_mut(head_dim) {
        for pair in 0..num_pairs {
            let (first, second) = match style {
                RotaryStyle::Half => (pair, pair + num_pairs),
                RotaryStyle::Interleaved => (2 * pair, 2 * pair + 1),
            };
            let (x, y) = (head[first] * attention_factor, head[second] * attention_factor);
            head[first] = x * cosines[pair] - y * sines[pair];
            head[second] = y * cosines[pair] + x * sines[pair];
        }
    }
}
