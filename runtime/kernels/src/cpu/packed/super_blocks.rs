//! Panels of GGUF's blocks of 256: scales of a few bits stay so, beside the f16 scales of these.
#![allow(unsafe_code)]

use super::affine::{five_bits_into, nibbles_into, to_f32};
use super::{Block, u16_at};
use crate::cpu::lanes::{ByteGroups, LANES};
use crate::room::ZeroBytes;

/// Parts of 32 elements.
pub(in crate::cpu) const PARTS: usize = 8;

/// Scales and minima of Q4_K and Q5_K.
#[derive(Clone, Copy)]
#[repr(C)]
pub(in crate::cpu) struct GroupScales {
    /// f16 by lane: scale of scales.
    pub scales: [u16; LANES],
    /// f16 by lane: scale of minima, negated, so that minima are added.
    pub minima: [u16; LANES],
    /// 0 to 63, by part and lane.
    pub part_scales: [[i8; LANES]; PARTS],
    /// 0 to 63, by part and lane.
    pub part_minima: [[i8; LANES]; PARTS],
}

/// 256 x 16 nibbles (Q4_K): 0.578 bytes per weight, 0.5625 as stored.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(in crate::cpu) struct Super4Block {
    /// Of the parts.
    pub scales: GroupScales,
    /// By part, as in [`Int4Block`](super::Int4Block).
    pub nibbles: [[ByteGroups; 4]; PARTS],
}

/// 256 x 16 five-bit values (Q5_K): 0.703 bytes per weight, 0.6875 as stored.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(in crate::cpu) struct Super5Block {
    /// Of the parts.
    pub scales: GroupScales,
    /// By part, as in [`Int5Block`](super::Int5Block).
    pub fifths: [ByteGroups; PARTS],
    /// By part.
    pub nibbles: [[ByteGroups; 4]; PARTS],
}

/// 256 x 16 six-bit values (Q6_K): 0.820 bytes per weight, as stored.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(in crate::cpu) struct Super6Block {
    /// f16 by lane: scale of scales.
    pub scales: [u16; LANES],
    /// By halves of parts and lane.
    pub half_scales: [[i8; LANES]; 2 * PARTS],
    /// By part; bits `2 * (g % 4)` and the next of byte `4 * lane + i` of group `g / 4` are the upper bits of element
    /// `4 * g + i`.
    pub uppers: [[ByteGroups; 2]; PARTS],
    /// By part.
    pub nibbles: [[ByteGroups; 4]; PARTS],
}

// SAFETY: integers only.
unsafe impl ZeroBytes for Super4Block {}
// SAFETY: integers only.
unsafe impl ZeroBytes for Super5Block {}
// SAFETY: integers only.
unsafe impl ZeroBytes for Super6Block {}

impl GroupScales {
    /// The first sixteen bytes of a stored block; [`dequantise_q4_k`](crate::dequantise::dequantise_q4_k) has their
    /// order.
    fn place(&mut self, lane: usize, stored: &[u8]) {
        self.scales[lane] = u16_at(stored, 0);
        self.minima[lane] = u16_at(stored, 2) ^ 0x8000;
        let packed = &stored[4..16];
        for part in 0..4 {
            self.part_scales[part][lane] = (packed[part] & 63) as i8;
            self.part_minima[part][lane] = (packed[part + 4] & 63) as i8;
            let low = packed[part + 8];
            self.part_scales[part + 4][lane] = (low & 15 | packed[part] >> 6 << 4) as i8;
            self.part_minima[part + 4][lane] = (low >> 4 | packed[part + 4] >> 6 << 4) as i8;
        }
    }

    fn scale_and_minimum(&self, part: usize, lane: usize) -> (f32, f32) {
        let scale = to_f32(self.scales[lane]) * f32::from(self.part_scales[part][lane]);
        (scale, to_f32(self.minima[lane]) * f32::from(self.part_minima[part][lane]))
    }
}

impl Block for Super4Block {
    const ELEMENTS: usize = 256;

    fn place(&mut self, lane: usize, stored: &[u8]) {
        self.scales.place(lane, stored);
        place_pairs_of_parts(&mut self.nibbles, lane, &stored[16..]);
    }

    fn values_into(&self, lane: usize, values: &mut [f32]) {
        for (part, values) in values.chunks_mut(32).enumerate() {
            let (scale, minimum) = self.scales.scale_and_minimum(part, lane);
            nibbles_into(&self.nibbles[part], lane, values, |nibble| f32::from(nibble) * scale + minimum);
        }
    }
}

impl Block for Super5Block {
    const ELEMENTS: usize = 256;

    fn place(&mut self, lane: usize, stored: &[u8]) {
        self.scales.place(lane, stored);
        for (part, fifths) in self.fifths.iter_mut().enumerate() {
            for (element, byte) in stored[16..48].iter().enumerate() {
                fifths[4 * lane + element % 4] |= (byte >> part & 1) << (element / 4);
            }
        }
        place_pairs_of_parts(&mut self.nibbles, lane, &stored[48..]);
    }

    fn values_into(&self, lane: usize, values: &mut [f32]) {
        for (part, values) in values.chunks_mut(32).enumerate() {
            let (scale, minimum) = self.scales.scale_and_minimum(part, lane);
            five_bits_into(&self.nibbles[part], &self.fifths[part], lane, values, |value| value * scale + minimum);
        }
    }
}

impl Block for Super6Block {
    const ELEMENTS: usize = 256;

    fn place(&mut self, lane: usize, stored: &[u8]) {
        self.scales[lane] = u16_at(stored, 208);
        for (scales, stored) in self.half_scales.iter_mut().zip(&stored[192..208]) {
            scales[lane] = *stored as i8;
        }
        for part in 0..PARTS {
            let (half, quarter) = (part / 4, part % 4);
            let (nibbles, uppers) = (&stored[64 * half + 32 * (quarter % 2)..], &stored[128 + 32 * half..]);
            for element in 0..32 {
                let nibble = nibbles[element] >> (4 * (quarter / 2)) & 15;
                place_nibble(&mut self.nibbles[part], lane, element, nibble);
                let (group, upper) = (element / 4, uppers[element] >> (2 * quarter) & 3);
                self.uppers[part][group / 4][4 * lane + element % 4] |= upper << (2 * (group % 4));
            }
        }
    }

    fn values_into(&self, lane: usize, values: &mut [f32]) {
        let scale_of_scales = to_f32(self.scales[lane]);
        for (part, values) in values.chunks_mut(32).enumerate() {
            nibbles_into(&self.nibbles[part], lane, values, f32::from);
            for (element, value) in values.iter_mut().enumerate() {
                let group = element / 4;
                let upper = self.uppers[part][group / 4][4 * lane + element % 4] >> (2 * (group % 4)) & 3;
                let scale = scale_of_scales * f32::from(self.half_scales[2 * part + element / 16][lane]);
                *value = (*value + 16.0 * f32::from(upper) - 32.0) * scale;
            }
        }
    }
}

/// 32 stored bytes hold one part in their low and the next in their high nibbles.
fn place_pairs_of_parts(parts: &mut [[ByteGroups; 4]; PARTS], lane: usize, stored: &[u8]) {
    for (pair, bytes) in parts.as_chunks_mut::<2>().0.iter_mut().zip(stored.as_chunks::<32>().0) {
        for (element, byte) in bytes.iter().enumerate() {
            place_nibble(&mut pair[0], lane, element, byte & 15);
            place_nibble(&mut pair[1], lane, element, byte >> 4);
        }
    }
}

/// Every nibble comes once, so that it can be added to what is there.
pub(super) fn place_nibble(groups: &mut [ByteGroups; 4], lane: usize, element: usize, nibble: u8) {
    let shift = if element < 16 { 0 } else { 4 };
    groups[element % 16 / 4][4 * lane + element % 4] |= nibble << shift;
}
