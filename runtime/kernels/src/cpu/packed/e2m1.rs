//! Panels of four-bit floats with block scales. The kernels look their codes up as small integers, twice the value.
#![allow(unsafe_code)]

use super::Block;
use super::affine::nibbles_into;
use super::super_blocks::place_nibble;
use crate::cpu::lanes::{ByteGroups, LANES};
use crate::dequantise::{E2M1, e4m3_to_f32, e8m0_to_f32};
use crate::room::ZeroBytes;

/// What [`DOUBLED`] adds to twice a value, so that it is not negative.
pub(in crate::cpu) const DOUBLED_OFFSET: i32 = 12;

/// Twice the value of every E2M1 code, plus [`DOUBLED_OFFSET`].
pub(in crate::cpu) const DOUBLED: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];

/// 32 x 16 E2M1 codes, a scale for every sixteen (NVFP4): 0.5625 bytes per weight, as stored. Codes lie as the nibbles
/// of [`Int4Block`](super::Int4Block), so that the low ones belong to the first scale and the high ones to the second.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(in crate::cpu) struct Nvfp4Block {
    /// E4M3 by lane, of the first and the last sixteen elements.
    pub scales: [[u8; LANES]; 2],
    /// Four groups.
    pub codes: [ByteGroups; 4],
}

/// 32 x 16 E2M1 codes with one scale (MXFP4): 0.53125 bytes per weight, as stored. Codes as in [`Nvfp4Block`].
#[derive(Clone, Copy)]
#[repr(C, align(16))]
pub(in crate::cpu) struct Mxfp4Block {
    /// E8M0 by lane.
    pub scales: [u8; LANES],
    /// Four groups.
    pub codes: [ByteGroups; 4],
}

// SAFETY: integers only.
unsafe impl ZeroBytes for Nvfp4Block {}
// SAFETY: integers only.
unsafe impl ZeroBytes for Mxfp4Block {}

impl Block for Nvfp4Block {
    const ELEMENTS: usize = 32;
    /// Twice the value, a 256th of the scale.
    const FACTOR: f32 = 0.5 * 256.0;

    /// One stored block at the end of a row of an odd number of them, else two.
    fn place(&mut self, lane: usize, stored: &[u8]) {
        for (half, stored) in stored.as_chunks::<9>().0.iter().enumerate() {
            self.scales[half][lane] = stored[0];
            for (pair, byte) in stored[1..].iter().enumerate() {
                place_nibble(&mut self.codes, lane, 16 * half + 2 * pair, byte & 15);
                place_nibble(&mut self.codes, lane, 16 * half + 2 * pair + 1, byte >> 4);
            }
        }
    }

    fn values_into(&self, lane: usize, values: &mut [f32]) {
        nibbles_into(&self.codes, lane, values, |code| E2M1[usize::from(code)]);
        for (values, scales) in values.chunks_mut(16).zip(&self.scales) {
            values.iter_mut().for_each(|value| *value *= e4m3_to_f32(scales[lane]));
        }
    }
}

impl Block for Mxfp4Block {
    const ELEMENTS: usize = 32;
    /// Twice the value.
    const FACTOR: f32 = 0.5;

    fn place(&mut self, lane: usize, stored: &[u8]) {
        self.scales[lane] = stored[0];
        for (pair, byte) in stored[1..].iter().enumerate() {
            place_nibble(&mut self.codes, lane, 2 * pair, byte & 15);
            place_nibble(&mut self.codes, lane, 2 * pair + 1, byte >> 4);
        }
    }

    fn values_into(&self, lane: usize, values: &mut [f32]) {
        let scale = e8m0_to_f32(self.scales[lane]);
        nibbles_into(&self.codes, lane, values, |code| E2M1[usize::from(code)] * scale);
    }
}

#[cfg(test)]
mod tests {
    use super::{DOUBLED, DOUBLED_OFFSET};
    use crate::dequantise::E2M1;

    #[test]
    fn the_table_is_twice_every_value() {
        for (doubled, value) in DOUBLED.iter().zip(E2M1) {
            assert_eq!((i32::from(*doubled) - DOUBLED_OFFSET) as f32, 2.0 * value);
        }
    }
}
