//! Normalisation by the root mean square.
#![allow(unsafe_code)]

use std::ops::Range;

use super::isa::Kernel;
use super::lanes::{LANES, Lanes};
use super::rows::RowsView;

/// `output = input / sqrt(mean(input^2) + eps) * (weight + weight_offset)` for every group of elements of some rows.
///
/// # Source
/// Zhang and Sennrich 2019, arXiv:1910.07467.
pub(super) struct RmsNormTask<'a> {
    /// `[rows, width]`.
    pub input: RowsView<'a>,
    /// `[group_width]`; `None`: 1.
    pub weight: Option<&'a [f32]>,
    /// Added to the mean square.
    pub eps: f32,
    /// Added to the weight.
    pub weight_offset: f32,
    /// Elements normalised together.
    pub group_width: usize,
    /// Same shape as `input`; may be the same buffer.
    pub output: RowsView<'a>,
    /// Rows to do.
    pub rows: Range<usize>,
}

impl Kernel for RmsNormTask<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        for row in self.rows.clone() {
            for group in (0..self.input.width).step_by(self.group_width) {
                self.group(lanes, row, group..group + self.group_width);
            }
        }
    }
}

impl RmsNormTask<'_> {
    #[inline(always)]
    fn group<L: Lanes>(&self, lanes: L, row: usize, columns: Range<usize>) {
        let mut squares = lanes.splat(0.0);
        for column in columns.clone().step_by(LANES) {
            let values = lanes.load(&self.values(row, column..columns.end));
            squares = lanes.fma(values, values, squares);
        }
        let scale = lanes.splat(1.0 / (lanes.sum(squares) / columns.len() as f32 + self.eps).sqrt());
        for column in columns.clone().step_by(LANES) {
            let len = LANES.min(columns.end - column);
            let mut normed = lanes.mul(lanes.load(&self.values(row, column..columns.end)), scale);
            if let Some(weight) = self.weight {
                let mut weights = [0.0; LANES];
                weights[..len].copy_from_slice(&weight[column - columns.start..][..len]);
                // Adding 0 changes nothing but the sign of a zero.
                let weights = lanes.add(lanes.load(&weights), lanes.splat(self.weight_offset));
                normed = lanes.mul(normed, weights);
            }
            let mut out = [0.0; LANES];
            lanes.store(normed, &mut out);
            // SAFETY: this row belongs to this task alone.
            unsafe { self.output.part_mut(row, column..column + len) }.copy_from_slice(&out[..len]);
        }
    }

    /// Up to sixteen elements, zeroes beyond the columns.
    #[inline(always)]
    fn values(&self, row: usize, columns: Range<usize>) -> [f32; LANES] {
        // SAFETY: this row belongs to this task alone.
        let mut values = unsafe { self.input.load(row, columns.start) };
        if columns.len() < LANES {
            values[columns.len()..].fill(0.0);
        }
        values
    }
}
