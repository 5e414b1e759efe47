//! Activations as the integer kernels read them: int8 in blocks of 32 with an f32 scale.
#![allow(unsafe_code)]

use std::marker::PhantomData;

use super::isa::Kernel;
use super::lanes::{LANES, Lanes};
use crate::room::ZeroBytes;

/// 32 activations: `value = quants * scale`.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
pub(super) struct ActivationBlock {
    /// -127 to 127, in groups of four.
    pub quants: [[i8; 4]; 8],
    /// The greatest magnitude over 127.
    pub scale: f32,
    /// `scale * sum`, for weights with a minimum.
    pub scaled_sum: f32,
    /// Sum of the quants, for weights with an offset.
    pub sum: i32,
    /// Sum of the first sixteen, for weights with a scale for each half.
    pub low_sum: i32,
}

// SAFETY: numbers only.
unsafe impl ZeroBytes for ActivationBlock {}

/// Quantised rows that several threads write at once, each its own.
#[derive(Clone, Copy)]
pub(super) struct BlocksView<'a> {
    start: *mut ActivationBlock,
    num_rows: usize,
    per_row: usize,
    memory: PhantomData<&'a mut [ActivationBlock]>,
}

// SAFETY: a view is a pointer; every access through it is unsafe and says who else may touch the blocks.
unsafe impl Send for BlocksView<'_> {}
// SAFETY: as above.
unsafe impl Sync for BlocksView<'_> {}

impl<'a> BlocksView<'a> {
    /// `blocks` as rows of `per_row`.
    pub fn new(blocks: &'a mut [ActivationBlock], per_row: usize) -> Self {
        let num_rows = blocks.len() / per_row.max(1);
        Self { start: blocks.as_mut_ptr(), num_rows, per_row, memory: PhantomData }
    }

    /// One row, to write.
    ///
    /// # Safety
    /// Nobody else may touch it while the result lives.
    pub unsafe fn row_mut(self, row: usize) -> &'a mut [ActivationBlock] {
        assert!(row < self.num_rows, "row {row} of {}", self.num_rows);
        // SAFETY: inside the slice that the view was made of; the caller keeps everybody else away.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(row * self.per_row), self.per_row) }
    }
}

/// Blocks below it become zero: its inverse must be a finite f32.
const SMALLEST: f32 = 1e-30;

/// Quantises one row into `blocks`.
pub(super) struct QuantiseRow<'a> {
    /// f32.
    pub row: &'a [f32],
    /// One for each 32 and what is left of them; beyond the row are zeroes.
    pub blocks: &'a mut [ActivationBlock],
}

impl Kernel for QuantiseRow<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        for (values, block) in self.row.chunks(2 * LANES).zip(self.blocks) {
            let mut padded = [[0.0; LANES]; 2];
            let values = match values.as_chunks::<LANES>() {
                ([low, high], _) => [low, high],
                _ => {
                    padded.as_flattened_mut()[..values.len()].copy_from_slice(values);
                    padded.each_ref()
                }
            };
            let (low, high) = (lanes.load(values[0]), lanes.load(values[1]));
            let magnitude = lanes.highest(lanes.max(lanes.abs(low), lanes.abs(high)));
            let inverse = if magnitude > SMALLEST { 127.0 / magnitude } else { 0.0 };
            let low = lanes.round(lanes.mul(low, lanes.splat(inverse)));
            let high = lanes.round(lanes.mul(high, lanes.splat(inverse)));
            let (groups, _) = block.quants.as_flattened_mut().as_chunks_mut::<LANES>();
            lanes.store_quants(low, &mut groups[0]);
            lanes.store_quants(high, &mut groups[1]);
            block.low_sum = lanes.sum_ints(low, lanes.splat_int(0));
            block.sum = lanes.sum_ints(low, high);
            block.scale = magnitude / 127.0;
            block.scaled_sum = block.scale * block.sum as f32;
        }
    }
}
