//! Panels of the affine integer families: an integer times a scale, plus a minimum in some.
#![allow(unsafe_code)]

use half::f16;

use super::{Block, u16_at};
use crate::cpu::lanes::{ByteGroups, LANES};
use crate::room::ZeroBytes;

/// 32 x 16 nibbles without a minimum (Q4_0). Byte `4 * lane + i` of group `g` holds element `4 * g + i` in its low
/// nibble and element `4 * g + i + 16` in its high one.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(in crate::cpu) struct Int4Block {
    /// f16 by lane.
    pub scales: [u16; LANES],
    /// Four groups.
    pub nibbles: [ByteGroups; 4],
}

/// 32 x 16 nibbles with a minimum (Q4_1); nibbles as in [`Int4Block`].
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(in crate::cpu) struct Int4MinBlock {
    /// f16 by lane.
    pub scales: [u16; LANES],
    /// f16 by lane.
    pub minima: [u16; LANES],
    /// Four groups.
    pub nibbles: [ByteGroups; 4],
}

/// 32 x 16 bytes, 128 added to each (Q8_0). Byte `4 * lane + i` of group `g` holds element `4 * g + i`.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(in crate::cpu) struct Int8Block {
    /// f16 by lane.
    pub scales: [u16; LANES],
    /// Eight groups.
    pub bytes: [ByteGroups; 8],
}

// SAFETY: integers only.
unsafe impl ZeroBytes for Int4Block {}
// SAFETY: integers only.
unsafe impl ZeroBytes for Int4MinBlock {}
// SAFETY: integers only.
unsafe impl ZeroBytes for Int8Block {}

/// 32 x 16 five-bit values without a minimum (Q5_0): 0.6875 bytes per weight, as stored. Nibbles as in [`Int4Block`];
/// bit `g` of byte `4 * lane + i` is the fifth bit of element `4 * g + i`.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(in crate::cpu) struct Int5Block {
    /// f16 by lane.
    pub scales: [u16; LANES],
    /// One bit per element.
    pub fifths: ByteGroups,
    /// Four groups.
    pub nibbles: [ByteGroups; 4],
}

/// 32 x 16 five-bit values with a minimum (Q5_1): 0.75 bytes per weight, as stored.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(in crate::cpu) struct Int5MinBlock {
    /// f16 by lane.
    pub scales: [u16; LANES],
    /// f16 by lane.
    pub minima: [u16; LANES],
    /// As in [`Int5Block`].
    pub fifths: ByteGroups,
    /// Four groups.
    pub nibbles: [ByteGroups; 4],
}

// SAFETY: integers only.
unsafe impl ZeroBytes for Int5Block {}
// SAFETY: integers only.
unsafe impl ZeroBytes for Int5MinBlock {}

impl Block for Int5Block {
    const ELEMENTS: usize = 32;

    fn place(&mut self, lane: usize, stored: &[u8]) {
        self.scales[lane] = u16_at(stored, 0);
        place_fifths(&mut self.fifths, lane, &stored[2..]);
        place_nibbles(&mut self.nibbles, lane, &stored[6..]);
    }

    fn values_into(&self, lane: usize, values: &mut [f32]) {
        let scale = to_f32(self.scales[lane]);
        five_bits_into(&self.nibbles, &self.fifths, lane, values, |five_bits| (five_bits - 16.0) * scale);
    }
}

impl Block for Int5MinBlock {
    const ELEMENTS: usize = 32;

    fn place(&mut self, lane: usize, stored: &[u8]) {
        self.scales[lane] = u16_at(stored, 0);
        self.minima[lane] = u16_at(stored, 2);
        place_fifths(&mut self.fifths, lane, &stored[4..]);
        place_nibbles(&mut self.nibbles, lane, &stored[8..]);
    }

    fn values_into(&self, lane: usize, values: &mut [f32]) {
        let (scale, minimum) = (to_f32(self.scales[lane]), to_f32(self.minima[lane]));
        five_bits_into(&self.nibbles, &self.fifths, lane, values, |five_bits| five_bits * scale + minimum);
    }
}

impl Block for Int4Block {
    const ELEMENTS: usize = 32;

    fn place(&mut self, lane: usize, stored: &[u8]) {
        self.scales[lane] = u16_at(stored, 0);
        place_nibbles(&mut self.nibbles, lane, &stored[2..]);
    }

    fn values_into(&self, lane: usize, values: &mut [f32]) {
        let scale = to_f32(self.scales[lane]);
        nibbles_into(&self.nibbles, lane, values, |nibble| (f32::from(nibble) - 8.0) * scale);
    }
}

impl Block for Int4MinBlock {
    const ELEMENTS: usize = 32;

    fn place(&mut self, lane: usize, stored: &[u8]) {
        self.scales[lane] = u16_at(stored, 0);
        self.minima[lane] = u16_at(stored, 2);
        place_nibbles(&mut self.nibbles, lane, &stored[4..]);
    }

    fn values_into(&self, lane: usize, values: &mut [f32]) {
        let (scale, minimum) = (to_f32(self.scales[lane]), to_f32(self.minima[lane]));
        nibbles_into(&self.nibbles, lane, values, |nibble| f32::from(nibble) * scale + minimum);
    }
}

impl Block for Int8Block {
    const ELEMENTS: usize = 32;

    fn place(&mut self, lane: usize, stored: &[u8]) {
        self.scales[lane] = u16_at(stored, 0);
        for (group, bytes) in self.bytes.iter_mut().zip(stored[2..].as_chunks::<4>().0) {
            group[4 * lane..4 * lane + 4].copy_from_slice(&bytes.map(|byte| byte ^ 128));
        }
    }

    fn values_into(&self, lane: usize, values: &mut [f32]) {
        let scale = to_f32(self.scales[lane]);
        for (i, value) in values.iter_mut().enumerate() {
            *value = (f32::from(self.bytes[i / 4][4 * lane + i % 4]) - 128.0) * scale;
        }
    }
}

/// Sixteen bytes whose nibbles are ordered as in [`Int4Block`] already.
pub(super) fn place_nibbles(groups: &mut [ByteGroups; 4], lane: usize, bytes: &[u8]) {
    for (group, bytes) in groups.iter_mut().zip(bytes.as_chunks::<4>().0) {
        group[4 * lane..4 * lane + 4].copy_from_slice(bytes);
    }
}

/// Up to 32 values of one lane.
pub(super) fn nibbles_into(groups: &[ByteGroups; 4], lane: usize, values: &mut [f32], value: impl Fn(u8) -> f32) {
    for (i, out) in values.iter_mut().enumerate() {
        let byte = groups[i % 16 / 4][4 * lane + i % 4];
        *out = value(if i < 16 { byte & 15 } else { byte >> 4 });
    }
}

/// The fifth bits of 32 elements, one after another in a little-endian word.
fn place_fifths(fifths: &mut ByteGroups, lane: usize, word: &[u8]) {
    for element in 0..32 {
        fifths[4 * lane + element % 4] |= (word[element / 8] >> (element % 8) & 1) << (element / 4);
    }
}

/// Up to 32 values of one lane.
pub(super) fn five_bits_into(
    groups: &[ByteGroups; 4],
    fifths: &ByteGroups,
    lane: usize,
    values: &mut [f32],
    value: impl Fn(f32) -> f32,
) {
    nibbles_into(groups, lane, values, f32::from);
    for (element, out) in values.iter_mut().enumerate() {
        let fifth = fifths[4 * lane + element % 4] >> (element / 4) & 1;
        *out = value(*out + 16.0 * f32::from(fifth));
    }
}

pub(super) fn to_f32(bits: u16) -> f32 {
    f16::from_bits(bits).to_f32()
}
