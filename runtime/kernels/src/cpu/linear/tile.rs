//! The inner loops: one panel of sixteen output features times `R` rows.
//!
//! Integer families: exact int32 sums over 32 (or 16) products, then one fused multiplication with the product of both
//! scales. Floating-point families: one fused multiplication per element.

mod columns;
mod integers;

use super::LinearInput;
use crate::cpu::lanes::Lanes;
use crate::cpu::quantise::ActivationBlock;

/// Up to so many rows wait for the memory.
const FEW_ROWS: usize = 2;

/// How far weights are asked for ahead of their use.
const PREFETCH_BYTES: usize = 4096;

/// `body` for every row of a tile, written out: of a long loop the compiler keeps the sums in memory.
macro_rules! each_row {
    ($rows:ident, $row:ident => $body:block) => { each_row!($rows, $row => $body; 0, 1, 2, 3, 4, 5, 6, 7) };
    ($rows:ident, $row:ident => $body:block; $($index:literal),+) => {
        $(if $index < $rows {
            let $row = $index;
            $body
        })+
    };
}

/// A block of a packed panel, with the product that belongs to it.
pub(super) trait Panel: Sized {
    /// What it is multiplied with: quantised blocks or f32.
    type Activation;

    /// The right kind of rows.
    fn activations<'a>(input: LinearInput<'a>) -> &'a [Self::Activation];

    /// Activations in a row that has `row_len` elements.
    fn activations_per_row(row_len: usize) -> usize;

    /// `sums[r][lane] = panel[lane] . rows[r]`, in the order of the blocks.
    fn tile<L: Lanes, const R: usize>(lanes: L, panel: &[Self], rows: [&[Self::Activation]; R]) -> [L::Floats; R];
}

/// An integer block: how it is unpacked and scaled.
trait IntBlock {
    /// Parts of 32 elements that it consists of.
    const PARTS: usize = 1;
    /// Whether the halves of a part have scales of their own.
    const HALVES: bool = false;
    /// Added to every unpacked weight; its multiple of the activations' sum is taken off again.
    fn offset<L: Lanes>() -> i32;
    /// Group `g` holds elements `4 * g` to `4 * g + 3` of every lane.
    fn unpack<L: Lanes>(&self, lanes: L, part: usize) -> [L::Bytes; 8];
    /// Scales by lane of both halves.
    fn scales<L: Lanes>(&self, lanes: L, part: usize) -> [L::Floats; 2];
    /// Minimum by lane, if the family has one.
    #[inline(always)]
    fn minima<L: Lanes>(&self, _: L, _part: usize) -> Option<L::Floats> {
        None
    }
    /// `sum += group . activations`.
    #[inline(always)]
    fn dot<L: Lanes>(lanes: L, sum: L::Ints, group: L::Bytes, activations: &[i8; 4]) -> L::Ints {
        lanes.dot_u6(sum, group, activations)
    }
}

#[inline(always)]
fn int_tile<L: Lanes, B: IntBlock, const R: usize>(
    lanes: L,
    panel: &[B],
    rows: [&[ActivationBlock]; R],
) -> [L::Floats; R] {
    let rows = rows.map(|row| &row[..panel.len() * B::PARTS]);
    let mut sums = [lanes.splat(0.0); R];
    for (index, block) in panel.iter().enumerate() {
        if R <= FEW_ROWS {
            lanes.prefetch(block, PREFETCH_BYTES);
        }
        for part in 0..B::PARTS {
            let groups = block.unpack(lanes, part);
            let (scales, minima) = (block.scales(lanes, part), block.minima(lanes, part));
            each_row!(R, r => {
                let activations = &rows[r][index * B::PARTS + part];
                sums[r] = products::<L, B>(lanes, sums[r], &groups, (scales, activations));
                if let Some(minima) = minima {
                    sums[r] = lanes.fma(minima, lanes.splat(activations.scaled_sum), sums[r]);
                }
            });
        }
    }
    sums
}

/// `sum` plus the scaled products of 32 elements.
#[inline(always)]
fn products<L: Lanes, B: IntBlock>(
    lanes: L,
    sum: L::Floats,
    groups: &[L::Bytes; 8],
    (scales, activations): ([L::Floats; 2], &ActivationBlock),
) -> L::Floats {
    let offset = -B::offset::<L>();
    let activation_scale = lanes.splat(activations.scale);
    if B::HALVES {
        let high_sum = activations.sum.wrapping_sub(activations.low_sum);
        let mut low = lanes.splat_int(activations.low_sum.wrapping_mul(offset));
        let mut high = lanes.splat_int(high_sum.wrapping_mul(offset));
        for group in 0..4 {
            low = B::dot(lanes, low, groups[group], &activations.quants[group]);
            high = B::dot(lanes, high, groups[group + 4], &activations.quants[group + 4]);
        }
        let sum = lanes.fma(lanes.mul(scales[0], activation_scale), lanes.to_floats(low), sum);
        lanes.fma(lanes.mul(scales[1], activation_scale), lanes.to_floats(high), sum)
    } else {
        let mut all = lanes.splat_int(activations.sum.wrapping_mul(offset));
        for (group, quants) in groups.iter().zip(&activations.quants) {
            all = B::dot(lanes, all, *group, quants);
        }
        lanes.fma(lanes.mul(scales[0], activation_scale), lanes.to_floats(all), sum)
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
    // Two sums, so that one does not wait for the other where there is a single row.
    let (mut even, mut odd) = ([lanes.splat(0.0); R], [lanes.splat(0.0); R]);
    let (pairs, rest) = panel.as_chunks::<2>();
    for (index, pair @ [first, second]) in pairs.iter().enumerate() {
        if R <= FEW_ROWS {
            lanes.prefetch(pair, PREFETCH_BYTES);
        }
        let (first, second) = (first.weights(lanes), second.weights(lanes));
        each_row!(R, r => {
            even[r] = lanes.fma(first, lanes.splat(rows[r][2 * index]), even[r]);
            odd[r] = lanes.fma(second, lanes.splat(rows[r][2 * index + 1]), odd[r]);
        });
    }
    for column in rest {
        let weights = column.weights(lanes);
        for r in 0..R {
            even[r] = lanes.fma(weights, lanes.splat(rows[r][2 * pairs.len()]), even[r]);
        }
    }
    for r in 0..R {
        even[r] = lanes.add(even[r], odd[r]);
    }
    even
}
