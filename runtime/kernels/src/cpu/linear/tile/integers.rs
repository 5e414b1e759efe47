//! How the blocks of the integer families are unpacked and scaled.

use super::{IntBlock, LinearInput, Panel, int_tile};
use crate::cpu::lanes::{ByteGroups, Lanes};
use crate::cpu::packed::{
    DOUBLED, DOUBLED_OFFSET, GroupScales, Int4Block, Int4MinBlock, Int5Block, Int5MinBlock, Int8Block, Mxfp4Block,
    Nvfp4Block, PARTS, Super4Block, Super5Block, Super6Block,
};
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

#[inline(always)]
fn unpack_five_bits<L: Lanes>(lanes: L, nibbles: &[ByteGroups; 4], fifths: &ByteGroups) -> [L::Bytes; 8] {
    let mut groups = unpack_nibbles(lanes, nibbles);
    let fifths = lanes.load_bytes(fifths);
    for (index, group) in groups.iter_mut().enumerate() {
        *group = lanes.or_bits(*group, fifths, index as i32 - 4, 16);
    }
    groups
}

impl IntBlock for Int5Block {
    #[inline(always)]
    fn offset<L: Lanes>() -> i32 {
        16
    }
    #[inline(always)]
    fn unpack<L: Lanes>(&self, lanes: L, _: usize) -> [L::Bytes; 8] {
        unpack_five_bits(lanes, &self.nibbles, &self.fifths)
    }
    #[inline(always)]
    fn scales<L: Lanes>(&self, lanes: L, _: usize) -> [L::Floats; 2] {
        [lanes.load_f16(&self.scales); 2]
    }
}

impl IntBlock for Int5MinBlock {
    #[inline(always)]
    fn offset<L: Lanes>() -> i32 {
        0
    }
    #[inline(always)]
    fn unpack<L: Lanes>(&self, lanes: L, _: usize) -> [L::Bytes; 8] {
        unpack_five_bits(lanes, &self.nibbles, &self.fifths)
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

impl GroupScales {
    #[inline(always)]
    fn of_part<L: Lanes>(&self, lanes: L, part: usize) -> [L::Floats; 2] {
        [lanes.mul(lanes.load_f16(&self.scales), lanes.load_i8(&self.part_scales[part])); 2]
    }
    #[inline(always)]
    fn minima_of_part<L: Lanes>(&self, lanes: L, part: usize) -> Option<L::Floats> {
        Some(lanes.mul(lanes.load_f16(&self.minima), lanes.load_i8(&self.part_minima[part])))
    }
}

impl IntBlock for Super4Block {
    const PARTS: usize = PARTS;
    #[inline(always)]
    fn offset<L: Lanes>() -> i32 {
        0
    }
    #[inline(always)]
    fn unpack<L: Lanes>(&self, lanes: L, part: usize) -> [L::Bytes; 8] {
        unpack_nibbles(lanes, &self.nibbles[part])
    }
    #[inline(always)]
    fn scales<L: Lanes>(&self, lanes: L, part: usize) -> [L::Floats; 2] {
        self.scales.of_part(lanes, part)
    }
    #[inline(always)]
    fn minima<L: Lanes>(&self, lanes: L, part: usize) -> Option<L::Floats> {
        self.scales.minima_of_part(lanes, part)
    }
}

impl IntBlock for Super5Block {
    const PARTS: usize = PARTS;
    #[inline(always)]
    fn offset<L: Lanes>() -> i32 {
        0
    }
    #[inline(always)]
    fn unpack<L: Lanes>(&self, lanes: L, part: usize) -> [L::Bytes; 8] {
        unpack_five_bits(lanes, &self.nibbles[part], &self.fifths[part])
    }
    #[inline(always)]
    fn scales<L: Lanes>(&self, lanes: L, part: usize) -> [L::Floats; 2] {
        self.scales.of_part(lanes, part)
    }
    #[inline(always)]
    fn minima<L: Lanes>(&self, lanes: L, part: usize) -> Option<L::Floats> {
        self.scales.minima_of_part(lanes, part)
    }
}

impl IntBlock for Super6Block {
    const PARTS: usize = PARTS;
    const HALVES: bool = true;
    #[inline(always)]
    fn offset<L: Lanes>() -> i32 {
        32
    }
    #[inline(always)]
    fn unpack<L: Lanes>(&self, lanes: L, part: usize) -> [L::Bytes; 8] {
        let mut groups = unpack_nibbles(lanes, &self.nibbles[part]);
        let [first, second] = &self.uppers[part];
        let uppers = [lanes.load_bytes(first), lanes.load_bytes(second)];
        for (index, group) in groups.iter_mut().enumerate() {
            *group = lanes.or_bits(*group, uppers[index / 4], 2 * (index % 4) as i32 - 4, 48);
        }
        groups
    }
    #[inline(always)]
    fn scales<L: Lanes>(&self, lanes: L, part: usize) -> [L::Floats; 2] {
        let scales = lanes.load_f16(&self.scales);
        let [low, high] = [2 * part, 2 * part + 1].map(|half| &self.half_scales[half]);
        [lanes.mul(scales, lanes.load_i8(low)), lanes.mul(scales, lanes.load_i8(high))]
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

panel!(Int4Block, Int4MinBlock, Int5Block, Int5MinBlock, Int8Block, Nvfp4Block, Mxfp4Block);
panel!(Super4Block, Super5Block, Super6Block);
