//! The gate of a feed-forward part.
#![allow(unsafe_code)]

use std::ops::Range;

use super::isa::Kernel;
use super::lanes::{LANES, Lanes};
use super::rows::RowsView;
use crate::Activation;

/// `activation(gate) * up`.
#[inline(always)]
pub(super) fn activate<L: Lanes>(
    lanes: L,
    activation: Activation,
    gate: &[f32; LANES],
    up: &[f32; LANES],
) -> [f32; LANES] {
    let gate = lanes.load(gate);
    let activated = match activation {
        Activation::Silu => {
            let one = lanes.splat(1.0);
            lanes.div(gate, lanes.add(one, lanes.exp(lanes.mul(gate, lanes.splat(-1.0)))))
        }
        Activation::GeluTanh | Activation::Sigmoid | Activation::ClampedSwiglu { .. } => {
            unreachable!("prepare should have refused {activation:?}")
        }
    };
    let mut out = [0.0; LANES];
    lanes.store(lanes.mul(activated, lanes.load(up)), &mut out);
    out
}

/// `output = activation(gate) * up` for some rows.
pub(super) struct GatedActivationTask<'a> {
    /// `[rows, width]`.
    pub gate: RowsView<'a>,
    /// Same shape.
    pub up: RowsView<'a>,
    /// Same shape; may be one of the two.
    pub output: RowsView<'a>,
    /// Applied to `gate`.
    pub activation: Activation,
    /// Rows to do.
    pub rows: Range<usize>,
}

impl Kernel for GatedActivationTask<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        for row in self.rows {
            for column in (0..self.gate.width).step_by(LANES) {
                // SAFETY: these rows belong to this task alone.
                unsafe {
                    let (gate, up) = (self.gate.load(row, column), self.up.load(row, column));
                    self.output.store(row, column, &activate(lanes, self.activation, &gate, &up));
                }
            }
        }
    }
}
