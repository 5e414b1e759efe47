//! The gate of a feed-forward part.
#![allow(unsafe_code)]

use std::ops::Range;

use super::isa::Kernel;
use super::lanes::{LANES, Lanes};
use super::rows::RowsView;
use crate::Activation;

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(super) fn sigmoid<L: Lanes>(lanes: L, x: L::Floats) -> L::Floats {
    let one = lanes.splat(1.0);
    lanes.div(one, lanes.add(one, lanes.exp(lanes.mul(x, lanes.splat(-1.0)))))
}

/// `activation(gate, up)`.
#[inline(always)]
pub(super) fn activate<L: Lanes>(
    lanes: L,
    activation: Activation,
    gate: &[f32; LANES],
    up: &[f32; LANES],
) -> [f32; LANES] {
    let (gate, up) = (lanes.load(gate), lanes.load(up));
    let activated = match activation {
        Activation::Silu => lanes.mul(silu(lanes, gate, gate), up),
        Activation::GeluTanh => {
            // (1 + tanh(y)) / 2 is the sigmoid of 2 y.
            let cubed = lanes.mul(lanes.mul(gate, gate), gate);
            let inner = lanes.fma(cubed, lanes.splat(0.044_715), gate);
            // 2 * sqrt(2 / pi)
            lanes.mul(silu(lanes, gate, lanes.mul(inner, lanes.splat(1.595_769))), up)
        }
        Activation::Sigmoid => lanes.mul(sigmoid(lanes, gate), up),
        Activation::ClampedSwiglu { alpha, limit } => {
            let (low, high) = (lanes.splat(-limit), lanes.splat(limit));
            let gate = lanes.min(gate, high);
            let up = lanes.max(lanes.min(up, high), low);
            let activated = silu(lanes, gate, lanes.mul(gate, lanes.splat(alpha)));
            lanes.mul(activated, lanes.add(up, lanes.splat(1.0)))
        }
    };
    let mut out = [0.0; LANES];
    lanes.store(activated, &mut out);
    out
}

/// `value * sigmoid(x)`, divided once.
#[inline(always)]
fn silu<L: Lanes>(lanes: L, value: L::Floats, x: L::Floats) -> L::Floats {
    lanes.div(value, lanes.add(lanes.splat(1.0), lanes.exp(lanes.mul(x, lanes.splat(-1.0)))))
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
