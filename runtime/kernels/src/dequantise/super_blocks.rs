//! GGUF's blocks of 256 ("K quants"): small scales in a few bits, and f16 scales of the small scales.

use super::f16_at;

/// Elements of a block.
pub const SUPER_BLOCK_ELEMENTS: usize = 256;
/// Elements that share one scale and one minimum in Q4_K and Q5_K.
const GROUP: usize = 32;

/// One block of 256 nibbles in eight groups of 32, each with a six-bit scale and minimum:
/// `value = nibble * scale * d - minimum * d_min`.
///
/// Bytes: f16 `d`, f16 `d_min`, 12 of scales and minima, 128 of nibbles. Each 32 bytes of nibbles hold two groups, the
/// first in the low halves. Scales of groups 0 to 3 are the low six bits of bytes 0 to 3, minima those of bytes 4 to 7.
/// For groups 4 to 7, bytes 8 to 11 hold the low four bits of scale (low) and minimum (high), and their upper two bits
/// are the top bits of bytes 0 to 3 and 4 to 7.
///
/// ```
/// use kindling_kernels::dequantise::dequantise_q4_k;
/// let mut block = [0; 144];
/// block[..4].copy_from_slice(&[0x00, 0x38, 0x00, 0x3c]); // d 0.5, d_min 1
/// block[4] = 0b01_000010; // scale of group 0 is 2; upper bits of the scale of group 4 are 1
/// block[8] = 3; // minimum of group 0
/// block[12] = 0x51; // group 4: scale 1 + 16, minimum 5
/// block[16] = 0xf4; // element 0 is 4, element 32 is 15
/// block[80] = 2; // element 128 is 2
/// let mut out = [0.0; 256];
/// dequantise_q4_k(&block, &mut out);
/// assert_eq!((out[0], out[1], out[32], out[128], out[129]), (1.0, -3.0, 0.0, 12.0, -5.0));
/// ```
pub fn dequantise_q4_k(block: &[u8; 144], out: &mut [f32; SUPER_BLOCK_ELEMENTS]) {
    let groups = SuperBlockScales::new(block);
    for (group, values) in out.as_chunks_mut::<GROUP>().0.iter_mut().enumerate() {
        let (scale, minimum) = groups.scale_and_minimum(group);
        for (value, byte) in values.iter_mut().zip(&block[16 + group / 2 * GROUP..]) {
            *value = f32::from(byte >> (4 * (group % 2)) & 15) * scale - minimum;
        }
    }
}

/// As [`dequantise_q4_k`], with 32 bytes of fifth bits before the nibbles: bit `g` of byte `l` belongs to element `l` of
/// group `g`.
///
/// ```
/// use kindling_kernels::dequantise::dequantise_q5_k;
/// let mut block = [0; 176];
/// block[..4].copy_from_slice(&[0x00, 0x38, 0x00, 0x3c]); // d 0.5, d_min 1
/// block[4..6].copy_from_slice(&[2, 4]); // scales of groups 0 and 1
/// block[8] = 3; // minimum of group 0
/// block[16] = 0b10; // fifth bit of element 32
/// block[48] = 0xf4; // element 0 is 4, element 32 is 16 + 15
/// let mut out = [0.0; 256];
/// dequantise_q5_k(&block, &mut out);
/// assert_eq!((out[0], out[1], out[32], out[33]), (1.0, -3.0, 62.0, 0.0));
/// ```
pub fn dequantise_q5_k(block: &[u8; 176], out: &mut [f32; SUPER_BLOCK_ELEMENTS]) {
    let groups = SuperBlockScales::new(block);
    for (group, values) in out.as_chunks_mut::<GROUP>().0.iter_mut().enumerate() {
        let (scale, minimum) = groups.scale_and_minimum(group);
        let nibbles = &block[48 + group / 2 * GROUP..];
        for ((value, byte), fifth) in values.iter_mut().zip(nibbles).zip(&block[16..48]) {
            let five_bits = byte >> (4 * (group % 2)) & 15 | (fifth >> group & 1) << 4;
            *value = f32::from(five_bits) * scale - minimum;
        }
    }
}

/// One block of 256 six-bit values in sixteen groups of 16, each with an i8 scale: `value = (six bits - 32) * scale * d`.
///
/// Bytes: 128 of nibbles, 64 of upper bits, 16 scales, f16 `d`. Each half of 128 elements takes 64 bytes of nibbles and
/// 32 of upper bits; quarter `q` of a half has its nibbles in bytes `32 * (q % 2)` on (low halves for quarters 0 and 1)
/// and its upper bits in bits `2 * q` and `2 * q + 1`.
///
/// ```
/// use kindling_kernels::dequantise::dequantise_q6_k;
/// let mut block = [0; 210];
/// block[208..].copy_from_slice(&[0x00, 0x38]); // d 0.5
/// block[192] = 1; // scale of elements 0 to 15
/// block[192 + 5] = -2i8 as u8; // scale of elements 80 to 95
/// block[16] = 0x70; // element 80 has 7 in its nibble
/// block[128 + 16] = 0b10_0000; // and 2 above it: 32 + 7
/// let mut out = [0.0; 256];
/// dequantise_q6_k(&block, &mut out);
/// assert_eq!((out[0], out[16], out[80], out[81]), (-16.0, 0.0, -7.0, 32.0));
/// ```
pub fn dequantise_q6_k(block: &[u8; 210], out: &mut [f32; SUPER_BLOCK_ELEMENTS]) {
    let scale_of_scales = f16_at(block, 208);
    for (half, values) in out.as_chunks_mut::<128>().0.iter_mut().enumerate() {
        let (nibbles, upper) = (&block[64 * half..][..64], &block[128 + 32 * half..][..32]);
        for (index, value) in values.iter_mut().enumerate() {
            let (quarter, l) = (index / 32, index % 32);
            let nibble = nibbles[32 * (quarter % 2) + l] >> (4 * (quarter / 2)) & 15;
            let six_bits = nibble | (upper[l] >> (2 * quarter) & 3) << 4;
            let scale = block[192 + 8 * half + index / 16] as i8;
            *value = (f32::from(six_bits) - 32.0) * (scale_of_scales * f32::from(scale));
        }
    }
}

/// The scales and minima at the head of Q4_K and Q5_K blocks.
pub struct SuperBlockScales<'a> {
    scale_of_scales: f32,
    scale_of_minima: f32,
    packed: &'a [u8],
}

impl<'a> SuperBlockScales<'a> {
    /// Of a whole block, or its head.
    pub fn new(block: &'a [u8]) -> Self {
        Self { scale_of_scales: f16_at(block, 0), scale_of_minima: f16_at(block, 2), packed: &block[4..16] }
    }

    /// Of a group of 32; the minimum is what is taken off.
    pub fn scale_and_minimum(&self, group: usize) -> (f32, f32) {
        let packed = self.packed;
        let (scale, minimum) = if group < 4 {
            (packed[group] & 63, packed[group + 4] & 63)
        } else {
            let low = packed[group + 4];
            (low & 15 | packed[group - 4] >> 6 << 4, low >> 4 | packed[group] >> 6 << 4)
        };
        (self.scale_of_scales * f32::from(scale), self.scale_of_minima * f32::from(minimum))
    }
}
