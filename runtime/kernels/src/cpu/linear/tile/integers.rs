//! How the blocks of the integer families are unpacked and scaled.

use super::{IntBlock, LinearInput, Panel, int_tile};
use crate::cpu::lanes::{ByteGroups, Lanes};
use crate::cpu::packed::{DOUBLED, DOUBLED_OFFSET, Int4Block, Int4MinBlock, Int8Block, Mxfp4Block, Nvfp4Block};
use crate::cpu::quantise::ActivationBlock;

#[inline(always)]
fn unpack_nibbles<L: Lanes>(lanes: L, nibbles: &[ByteGroups; 4]) -> [L::Bytes; 8] {
    let mut groups = [lanes.load_bytes(&nibbles[0]); 8];
    for (group, packed) in nibbles.iter().enumerate() {
        let packed = lanes.load_bytes(packed);
        groups[group] = lanes.low_nibbles(packed);
        groups[group + 4] = lanes.high_nibbles(packed);
    }
    groups
}

#[inline(always)]
fn unpack_codes<L: Lanes>(lanes: L, codes: &[ByteGroups; 4]) -> [L::Bytes; 8] {
    let mut groups = unpack_nibbles(lanes, codes);
    for group in &mut groups {
        *group = lanes.look_up(&DOUBLED, *group);
    }
    groups
}

impl IntBlock for Int4Block {
    #[inline(always)]
    fn offset<L: Lanes>() -> i32 {
        8
    }
    #[inline(always)]
    fn unpack<L: Lanes>(&self, lanes: L, _: usize) -> [L::Bytes; 8] {
        unpack_nibbles(lanes, &self.nibbles)
    }
    #[inline(always)]
    fn scales<L: Lanes>(&self, lanes: L, _: usize) -> [L::Floats; 2] {
        [lanes.load_f16(&self.scales); 2]
    }
}

impl IntBlock for Int4MinBlock {
    #[inline(always)]
    fn offset<L: Lanes>() -> i32 {
        0
    }
    #[inline(always)]
    fn unpack<L: Lanes>(&self, lanes: L, _: usize) -> [L::Bytes; 8] {
        unpack_nibbles(lanes, &self.nibbles)
    }
    #[inline(always)]
    fn scales<L: Lanes>(&self, lanes: L, _: usize) -> [L::Floats; 2] {
        [lanes.load_f16(&self.scales); 2]
    }
    #[inline(always)]
    fn minima<L: Lanes>(&self, lanes: L, _: usize) -> Option<L::Floats> {
        Some(lanes.load_f16(&self.minima))
    }
}

impl IntBlock for Int8Block {
    #[inline(always)]
    fn offset<L: Lanes>() -> i32 {
        L::DOT_I8_BIAS
    }
    #[inline(always)]
    fn unpack<L: Lanes>(&self, lanes: L, _: usize) -> [L::Bytes; 8] {
        let mut groups = [lanes.load_bytes(&self.bytes[0]); 8];
        for (group, bytes) in groups.iter_mut().zip(&self.bytes) {
            *group = lanes.load_bytes(bytes);
        }
        groups
    }
    #[inline(always)]
    fn scales<L: Lanes>(&self, lanes: L, _: usize) -> [L::Floats; 2] {
        [lanes.load_f16(&self.scales); 2]
    }
    #[inline(always)]
    fn dot<L: Lanes>(lanes: L, sum: L::Ints, group: L::Bytes, activations: &[i8; 4]) -> L::Ints {
        lanes.dot_i8(sum, group, activations)
    }
}

impl IntBlock for Nvfp4Block {
    const HALVES: bool = true;
    #[inline(always)]
    fn offset<L: Lanes>() -> i32 {
        DOUBLED_OFFSET
    }
    #[inline(always)]
    fn unpack<L: Lanes>(&self, lanes: L, _: usize) -> [L::Bytes; 8] {
        unpack_codes(lanes, &self.codes)
    }
    #[inline(always)]
    fn scales<L: Lanes>(&self, lanes: L, _: usize) -> [L::Floats; 2] {
        [lanes.load_e4m3_256ths(&self.scales[0]), lanes.load_e4m3_256ths(&self.scales[1])]
    }
}

impl IntBlock for Mxfp4Block {
    #[inline(always)]
    fn offset<L: Lanes>() -> i32 {
        DOUBLED_OFFSET
    }
    #[inline(always)]
    fn unpack<L: Lanes>(&self, lanes: L, _: usize) -> [L::Bytes; 8] {
        unpack_codes(lanes, &self.codes)
    }
    #[inline(always)]
    fn scales<L: Lanes>(&self, lanes: L, _: usize) -> [L::Floats; 2] {
        [lanes.load_e8m0(&self.scales); 2]
    }
}

macro_rules! panel {
    ($($block:ty),+) => {
        $(impl Panel for $block {
            type Activation = ActivationBlock;

            #[inline(always)]
            fn activations<'a>(input: LinearInput<'a>) -> &'a [ActivationBlock] {
                input.blocks
            }

            #[inline(always)]
            fn activations_per_row(row_len: usize) -> usize {
                row_len.div_ceil(32)
            }

            #[inline(always)]
            fn tile<L: Lanes, const R: usize>(
                lanes: L,
                panel: &[Self],
                rows: [&[ActivationBlock]; R],
            ) -> [L::Floats; R] {
                int_tile(lanes, panel, rows)
            }
        })+
    };
}

panel!(Int4Block, Int4MinBlock, Int8Block, Nvfp4Block, Mxfp4Block);
