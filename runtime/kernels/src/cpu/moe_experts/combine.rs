//! The sum of a token's experts.
#![allow(unsafe_code)]

use std::ops::Range;

use super::pairs::Pairs;
use crate::cpu::isa::Kernel;
use crate::cpu::lanes::{LANES, Lanes};
use crate::cpu::rows::RowsView;

/// `output[token] = sum of weight * downs[pair]` over the pairs of some tokens.
pub(super) struct CombineTask<'a> {
    /// Which pairs.
    pub pairs: &'a Pairs,
    /// `[pairs, hidden_size]`.
    pub downs: RowsView<'a>,
    /// `[num_tokens, hidden_size]`.
    pub output: RowsView<'a>,
    /// Tokens to do.
    pub rows: Range<usize>,
}

impl Kernel for CombineTask<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        for token in self.rows {
            for column in (0..self.output.width).step_by(LANES) {
                let mut sum = lanes.splat(0.0);
                for pair in self.pairs.of_token(token) {
                    let pair = *pair as usize;
                    // SAFETY: nobody writes the experts' rows any more.
                    let values = lanes.load(&unsafe { self.downs.load(pair, column) });
                    sum = lanes.fma(values, lanes.splat(self.pairs.weights[pair]), sum);
                }
                let mut values = [0.0; LANES];
                lanes.store(sum, &mut values);
                // SAFETY: this row belongs to this task alone.
                unsafe { self.output.store(token, column, &values) };
            }
        }
    }
}
