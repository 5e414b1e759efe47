//! `output += input`.
#![allow(unsafe_code)]

use std::ops::Range;

use super::isa::Kernel;
use super::lanes::{LANES, Lanes};
use super::rows::RowsView;

/// Adds some rows of two different buffers.
pub(super) struct AddTask<'a> {
    /// `[rows, width]`.
    pub input: RowsView<'a>,
    /// Same shape.
    pub output: RowsView<'a>,
    /// Rows to do.
    pub rows: Range<usize>,
}

impl Kernel for AddTask<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        for row in self.rows {
            for column in (0..self.input.width).step_by(LANES) {
                // SAFETY: these rows belong to this task alone.
                unsafe {
                    let (input, output) = (self.input.load(row, column), self.output.load(row, column));
                    let mut sum = [0.0; LANES];
                    lanes.store(lanes.add(lanes.load(&output), lanes.load(&input)), &mut sum);
                    self.output.store(row, column, &sum);
                }
            }
        }
    }
}
