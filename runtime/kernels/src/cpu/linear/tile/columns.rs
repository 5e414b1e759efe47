//! Plain types: weights become f32 one column at a time.

use super::{FloatColumn, LinearInput, Panel, float_tile};
use crate::cpu::lanes::Lanes;
use crate::cpu::packed::{BF16Column, Block, E4M3Block, E4M3Column, F16Column, F32Column};

macro_rules! column {
    ($column:ty, $load:ident) => {
        impl FloatColumn for $column {
            #[inline(always)]
            fn weights<L: Lanes>(&self, lanes: L) -> L::Floats {
                lanes.$load(&self.0)
            }
        }

        impl Panel for $column {
            type Activation = f32;

            #[inline(always)]
            fn activations<'a>(input: LinearInput<'a>) -> &'a [f32] {
                input.floats
            }

            #[inline(always)]
            fn activations_per_row(row_len: usize) -> usize {
                row_len
            }

            #[inline(always)]
            fn tile<L: Lanes, const R: usize>(lanes: L, panel: &[Self], rows: [&[f32]; R]) -> [L::Floats; R] {
                float_tile(lanes, panel, rows)
            }
        }
    };
}

column!(F16Column, load_f16);
column!(BF16Column, load_bf16);
column!(F32Column, load);
column!(E4M3Column, load_e4m3_256ths);

impl Panel for E4M3Block {
    type Activation = f32;

    #[inline(always)]
    fn activations<'a>(input: LinearInput<'a>) -> &'a [f32] {
        input.floats
    }

    #[inline(always)]
    fn activations_per_row(row_len: usize) -> usize {
        row_len
    }

    #[inline(always)]
    fn tile<L: Lanes, const R: usize>(lanes: L, panel: &[Self], rows: [&[f32]; R]) -> [L::Floats; R] {
        let mut sums = [lanes.splat(0.0); R];
        for (index, block) in panel.iter().enumerate() {
            let parts = rows.map(|row| &row[index * Self::ELEMENTS..(index + 1) * Self::ELEMENTS]);
            let products = float_tile(lanes, &block.columns, parts);
            let scales = lanes.load(&block.scales);
            for (sum, product) in sums.iter_mut().zip(products) {
                *sum = lanes.fma(scales, product, *sum);
            }
        }
        sums
    }
}
