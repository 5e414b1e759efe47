//! Keeps elements within a bound, smoothly.
#![allow(unsafe_code)]

use std::ops::Range;

use super::isa::Kernel;
use super::lanes::{LANES, Lanes};
use super::rows::RowsView;

/// `buffer = cap * tanh(buffer / cap)` for some rows.
pub(super) struct SoftCapTask<'a> {
    /// `[rows, width]`.
    pub buffer: RowsView<'a>,
    /// The bound.
    pub cap: f32,
    /// Rows to do.
    pub rows: Range<usize>,
}

impl Kernel for SoftCapTask<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let cap = lanes.splat(self.cap);
        for row in self.rows {
            for column in (0..self.buffer.width).step_by(LANES) {
                // SAFETY: these rows belong to this task alone.
                unsafe {
                    let mut values = self.buffer.load(row, column);
                    // tanh(y) = 1 - 2 / (1 + e^2y)
                    let twice = lanes.div(lanes.mul(lanes.load(&values), lanes.splat(2.0)), cap);
                    let rest = lanes.div(lanes.splat(-2.0), lanes.add(lanes.splat(1.0), lanes.exp(twice)));
                    lanes.store(lanes.mul(lanes.add(lanes.splat(1.0), rest), cap), &mut values);
                    self.buffer.store(row, column, &values);
                }
            }
        }
    }
}
