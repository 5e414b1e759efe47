//! The gate of a shared expert.
#![allow(unsafe_code)]

use std::ops::Range;

use super::gated_activation::sigmoid;
use super::isa::Kernel;
use super::lanes::{LANES, Lanes};
use super::rows::RowsView;

/// `output[row] *= sigmoid(gate[row])` for some rows.
pub(super) struct SigmoidGateRowsTask<'a> {
    /// `[rows, 1]`.
    pub gate: RowsView<'a>,
    /// `[rows, width]`.
    pub output: RowsView<'a>,
    /// Rows to do.
    pub rows: Range<usize>,
}

impl Kernel for SigmoidGateRowsTask<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        for row in self.rows {
            // SAFETY: gates are only read.
            let [gate, ..] = unsafe { self.gate.load(row, 0) };
            let factor = sigmoid(lanes, lanes.splat(gate));
            for column in (0..self.output.width).step_by(LANES) {
                // SAFETY: these rows belong to this task alone.
                unsafe {
                    let mut values = self.output.load(row, column);
                    lanes.store(lanes.mul(lanes.load(&values), factor), &mut values);
                    self.output.store(row, column, &values);
                }
            }
        }
    }
}
