//! Multiplies all elements of a buffer alike.
#![allow(unsafe_code)]

use std::ops::Range;

use super::isa::Kernel;
use super::lanes::{LANES, Lanes};
use super::rows::RowsView;

/// `buffer *= factor` for some rows.
pub(super) struct ScaleTask<'a> {
    /// `[rows, width]`.
    pub buffer: RowsView<'a>,
    /// Of all elements.
    pub factor: f32,
    /// Rows to do.
    pub rows: Range<usize>,
}

impl Kernel for ScaleTask<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        for row in self.rows {
            for column in (0..self.buffer.width).step_by(LANES) {
                // SAFETY: these rows belong to this task alone.
                unsafe {
                    let mut values = self.buffer.load(row, column);
                    lanes.store(lanes.mul(lanes.load(&values), lanes.splat(self.factor)), &mut values);
                    self.buffer.store(row, column, &values);
                }
            }
        }
    }
}
