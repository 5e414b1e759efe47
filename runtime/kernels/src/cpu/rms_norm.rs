//! Normalisation by the root mean square.
#![allow(unsafe_code)]

use std::ops::Range;

use super::isa::Kernel;
use super::lanes::{LANES, Lanes};
use super::rows::RowsView;

/// `output = input / sqrt(mean(input^2) + eps) * weight` for some rows.
///
/// # Source
/// Zhang and Sennrich 2019, arXiv:1910.07467.
pub(super) struct RmsNormTask<'a> {
    /// `[rows, width]`.
    pub input: RowsView<'a>,
    /// `[width]`.
    pub weight: &'a [f32],
    /// Added to the mean square.
    pub eps: f32,
    /// Same shape as `input`; may be the same buffer.
    pub output: RowsView<'a>,
    /// Rows to do.
    pub rows: Range<usize>,
}

impl Kernel for RmsNormTask<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let width = self.weight.len();
        for row in self.rows {
            let mut squares = lanes.splat(0.0);
            for column in (0..width).step_by(LANES) {
                // SAFETY: this row belongs to this task alone.
                let values = lanes.load(&unsafe { self.input.load(row, column) });
                squares = lanes.fma(values, values, squares);
            }
            let scale = lanes.splat(1.0 / (lanes.sum(squares) / width as f32 + self.eps).sqrt());
            for column in (0..width).step_by(LANES) {
                let weight = &self.weight[column..width.min(column + LANES)];
                let mut weights = [0.0; LANES];
                weights[..weight.len()].copy_from_slice(weight);
                // SAFETY: this row belongs to this task alone.
                unsafe {
                    let normed = lanes.mul(lanes.load(&self.input.load(row, column)), scale);
                    let mut out = [0.0; LANES];
                    lanes.store(lanes.mul(normed, lanes.load(&weights)), &mut out);
                    self.output.store(row, column, &out);
                }
            }
        }
    }
}
