//! Panels of the affine integer families: an integer times a scale, plus a minimum in some.
#![allow(unsafe_code)]

use half::f16;

use super::{Block, u16_at};
use crate::cpu::lanes::{ByteGroups, LANES};
use crate::load::ZeroBytes;

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

fn to_f32(bits: u16) -> f32 {
    f16::from_bits(bits).to_f32()
}
