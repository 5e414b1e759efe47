//! Rotary position embedding.
#![allow(unsafe_code)]

use std::ops::Range;

use super::isa::Kernel;
use super::lanes::Lanes;
use super::rows::RowsView;
use crate::RotaryStyle;
use crate::rotary_frequencies::rotary_angles_into;

/// Cosines and sines of one step: `[num_tokens, rotary_dim / 2]` each. Made once a step, used by every layer.
pub(super) struct RotaryAngles {
    frequencies: Vec<f32>,
    style: RotaryStyle,
    /// Multiplies cosines and sines.
    factor: f32,
    cosines: Vec<f32>,
    sines: Vec<f32>,
}

impl RotaryAngles {
    /// Room for the angles of `frequencies`, `[rotary_dim / 2]`.
    pub fn new(frequencies: Vec<f32>, style: RotaryStyle, factor: f32) -> Self {
        Self { frequencies, style, factor, cosines: Vec::new(), sines: Vec::new() }
    }

    /// Computes the angles of every token.
    pub fn update(&mut self, positions: &[[u32; 3]]) {
        let num_pairs = self.frequencies.len();
        self.cosines.resize(positions.len() * num_pairs, 0.0);
        self.sines.resize(positions.len() * num_pairs, 0.0);
        let rows = self.cosines.chunks_exact_mut(num_pairs).zip(self.sines.chunks_exact_mut(num_pairs));
        for (position, (cosines, sines)) in positions.iter().zip(rows) {
            rotary_angles_into(&self.frequencies, position[0], cosines, sines);
            if self.factor != 1.0 {
                cosines.iter_mut().chain(sines).for_each(|value| *value *= self.factor);
            }
        }
    }
}

/// Rotates the leading elements of each head of some rows, in place.
///
/// # Source
/// Su et al. 2021, arXiv:2104.09864.
pub(super) struct RotaryTask<'a> {
    /// `[num_tokens, num_heads * head_dim]`.
    pub buffer: RowsView<'a>,
    /// Elements per head.
    pub head_dim: usize,
    /// Of this step.
    pub angles: &'a RotaryAngles,
    /// Rows to do.
    pub rows: Range<usize>,
}

impl Kernel for RotaryTask<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        let RotaryAngles { frequencies, style, cosines, sines, .. } = self.angles;
        let num_pairs = frequencies.len();
        for row in self.rows {
            let angles = row * num_pairs..(row + 1) * num_pairs;
            let (cosines, sines) = (&cosines[angles.clone()], &sines[angles]);
            // SAFETY: this row belongs to this task alone.
            for head in unsafe { self.buffer.row_mut(row) }.chunks_exact_mut(self.head_dim) {
                let rotated = &mut head[..2 * num_pairs];
                match style {
                    RotaryStyle::Half => {
                        let (first, second) = rotated.split_at_mut(num_pairs);
                        for (i, (x, y)) in first.iter_mut().zip(second).enumerate() {
                            (*x, *y) = rotate(*x, *y, cosines[i], sines[i]);
                        }
                    }
                    RotaryStyle::Interleaved => {
                        for (i, [x, y]) in rotated.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                            (*x, *y) = rotate(*x, *y, cosines[i], sines[i]);
                        }
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn rotate(x: f32, y: f32, cosine: f32, sine: f32) -> (f32, f32) {
    (x * cosine - y * sine, y * cosine + x * sine)
}
