//! The inner loops: one panel of sixteen output features times `R` rows.
//!
//! Integer families: exact int32 sums over 32 products, then one fused multiplication per block with the product of both
//! scales. Floating-point families: one fused multiplication per element.

use crate::cpu::lanes::Lanes;
use crate::cpu::packed::{BF16Column, F16Column, F32Column, Int4Block, Int4MinBlock, Int8Block};
use crate::cpu::quantise::ActivationBlock;

/// A block of a packed panel, with the product that belongs to it.
pub(super) trait Panel: Sized {
    /// What it is multiplied with: quantised blocks or f32.
    type Activation;

    /// `sums[r][lane] = panel[lane] . rows[r]`, in the order of the blocks.
    fn tile<L: Lanes, const R: usize>(lanes: L, panel: &[Self], rows: [&[Self::Activation]; R]) -> [L::Floats; R];
}

/// An integer block: how it is unpacked and scaled.
trait IntBlock {
    /// Added to every unpacked weight; its multiple of the activations' sum is taken off again.
    fn offset<L: Lanes>() -> i32;
    /// Group `g` holds elements `4 * g` to `4 * g + 3` of every lane.
    fn unpack<L: Lanes>(&self, lanes: L) -> [L::Bytes; 8];
    /// Scale by lane.
    fn scales<L: Lanes>(&self, lanes: L) -> L::Floats;
    /// Minimum by lane, if the family has one.
    fn minima<L: Lanes>(&self, lanes: L) -> Option<L::Floats>;
    /// `sum += group . activations`.
    fn dot<L: Lanes>(lanes: L, sum: L::Ints, group: L::Bytes, activations: &[i8; 4]) -> L::Ints;
}

#[inline(always)]
fn int_tile<L: Lanes, B: IntBlock, const R: usize>(
    lanes: L,
    panel: &[B],
    rows: [&[ActivationBlock]; R],
) -> [L::Floats; R] {
    let rows = rows.map(|row| &row[..panel.len()]);
    let mut sums = [lanes.splat(0.0); R];
    for (index, block) in panel.iter().enumerate() {
        let groups = block.unpack(lanes);
        let (scales, minima) = (block.scales(lanes), block.minima(lanes));
        for (sum, row) in sums.iter_mut().zip(&rows) {
            let activations = &row[index];
            let mut products = lanes.splat_int(activations.sum.wrapping_mul(-B::offset::<L>()));
            for (group, quants) in groups.iter().zip(&activations.quants) {
                products = B::dot(lanes, products, *group, quants);
            }
            let scale = lanes.mul(scales, lanes.splat(activations.scale));
            *sum = lanes.fma(scale, lanes.to_floats(products), *sum);
            if let Some(minima) = minima {
                *sum = lanes.fma(minima, lanes.splat(activations.scaled_sum), *sum);
            }
        }
    }
    sums
}

#[inline(always)]
fn unpack_nibbles<L: Lanes>(lanes: L, nibbles: &[[u8; 64]; 4]) -> [L::Bytes; 8] {
    let mut groups = [lanes.load_bytes(&nibbles[0]); 8];
    for (group, packed) in nibbles.iter().enumerate() {
        let packed = lanes.load_bytes(packed);
        groups[group] = lanes.low_nibbles(packed);
        groups[group + 4] = lanes.high_nibbles(packed);
    }
    groups
}

impl IntBlock for Int4Block {
    #[inline(always)]
    fn offset<L: Lanes>() -> i32 {
        8
    }
    #[inline(always)]
    fn unpack<L: Lanes>(&self, lanes: L) -> [L::Bytes; 8] {
        unpack_nibbles(lanes, &self.nibbles)
    }
    #[inline(always)]
    fn scales<L: Lanes>(&self, lanes: L) -> L::Floats {
        lanes.load_f16(&self.scales)
    }
    #[inline(always)]
    fn minima<L: Lanes>(&self, _: L) -> Option<L::Floats> {
        None
    }
    #[inline(always)]
    fn dot<L: Lanes>(lanes: L, sum: L::Ints, group: L::Bytes, activations: &[i8; 4]) -> L::Ints {
        lanes.dot_u4(sum, group, activations)
    }
}

impl IntBlock for Int4MinBlock {
    #[inline(always)]
    fn offset<L: Lanes>() -> i32 {
        0
    }
    #[inline(always)]
    fn unpack<L: Lanes>(&self, lanes: L) -> [L::Bytes; 8] {
        unpack_nibbles(lanes, &self.nibbles)
    }
    #[inline(always)]
    fn scales<L: Lanes>(&self, lanes: L) -> L::Floats {
        lanes.load_f16(&self.scales)
    }
    #[inline(always)]
    fn minima<L: Lanes>(&self, lanes: L) -> Option<L::Floats> {
        Some(lanes.load_f16(&self.minima))
    }
    #[inline(always)]
    fn dot<L: Lanes>(lanes: L, sum: L::Ints, group: L::Bytes, activations: &[i8; 4]) -> L::Ints {
        lanes.dot_u4(sum, group, activations)
    }
}

impl IntBlock for Int8Block {
    #[inline(always)]
    fn offset<L: Lanes>() -> i32 {
        L::DOT_I8_BIAS
    }
    #[inline(always)]
    fn unpack<L: Lanes>(&self, lanes: L) -> [L::Bytes; 8] {
        let mut groups = [lanes.load_bytes(&self.bytes[0]); 8];
        for (group, bytes) in groups.iter_mut().zip(&self.bytes) {
            *group = lanes.load_bytes(bytes);
        }
        groups
    }
    #[inline(always)]
    fn scales<L: Lanes>(&self, lanes: L) -> L::Floats {
        lanes.load_f16(&self.scales)
    }
    #[inline(always)]
    fn minima<L: Lanes>(&self, _: L) -> Option<L::Floats> {
        None
    }
    #[inline(always)]
    fn dot<L: Lanes>(lanes: L, sum: L::Ints, group: L::Bytes, activations: &[i8; 4]) -> L::Ints {
        lanes.dot_i8(sum, group, activations)
    }
}

/// A column of sixteen weights.
trait FloatColumn {
    /// As f32.
    fn weights<L: Lanes>(&self, lanes: L) -> L::Floats;
}

#[inline(always)]
fn float_tile<L: Lanes, C: FloatColumn, const R: usize>(lanes: L, panel: &[C], rows: [&[f32]; R]) -> [L::Floats; R] {
    let rows = rows.map(|row| &row[..panel.len()]);
    let mut sums = [lanes.splat(0.0); R];
    for (index, column) in panel.iter().enumerate() {
        let weights = column.weights(lanes);
        for (sum, row) in sums.iter_mut().zip(&rows) {
            *sum = lanes.fma(weights, lanes.splat(row[index]), *sum);
        }
    }
    sums
}

impl FloatColumn for F16Column {
    #[inline(always)]
    fn weights<L: Lanes>(&self, lanes: L) -> L::Floats {
        lanes.load_f16(&self.0)
    }
}

impl FloatColumn for BF16Column {
    #[inline(always)]
    fn weights<L: Lanes>(&self, lanes: L) -> L::Floats {
        lanes.load_bf16(&self.0)
    }
}

impl FloatColumn for F32Column {
    #[inline(always)]
    fn weights<L: Lanes>(&self, lanes: L) -> L::Floats {
        lanes.load(&self.0)
    }
}

/// Makes a block a [`Panel`] by one of the loops above.
macro_rules! panel {
    ($block:ty, $activation:ty, $tile:ident) => {
        impl Panel for $block {
            type Activation = $activation;
            #[inline(always)]
            fn tile<L: Lanes, const R: usize>(lanes: L, panel: &[Self], rows: [&[$activation]; R]) -> [L::Floats; R] {
                $tile(lanes, panel, rows)
            }
        }
    };
}

panel!(Int4Block, ActivationBlock, int_tile);
panel!(Int4MinBlock, ActivationBlock, int_tile);
panel!(Int8Block, ActivationBlock, int_tile);
panel!(F16Column, f32, float_tile);
panel!(BF16Column, f32, float_tile);
panel!(F32Column, f32, float_tile);
