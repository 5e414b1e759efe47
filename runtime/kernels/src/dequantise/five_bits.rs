//! GGUF's blocks of 32 five-bit values: nibbles as in the four-bit blocks, the fifth bits in one word before them.

use super::{BLOCK_ELEMENTS, f16_at};

/// One block of 32 five-bit values with an f16 scale: `value = (five bits - 16) * scale`. Bit `j` of the word (bytes 2
/// to 5, little-endian) is the fifth bit of element `j`; nibbles as in [`dequantise_q4_0`](super::dequantise_q4_0).
///
/// ```
/// use kindling_kernels::dequantise::dequantise_q5_0;
/// let mut block = [0; 22];
/// block[..2].copy_from_slice(&[0x00, 0x38]); // scale 0.5
/// block[2] = 0b01; // element 0 has its fifth bit
/// block[4] = 0b10; // so has element 17
/// block[6] = 0xf3; // element 0 is 16 + 3, element 16 is 15
/// let mut out = [0.0; 32];
/// dequantise_q5_0(&block, &mut out);
/// assert_eq!((out[0], out[1], out[16], out[17]), (1.5, -8.0, -0.5, 0.0));
/// ```
pub fn dequantise_q5_0(block: &[u8; 22], out: &mut [f32; BLOCK_ELEMENTS]) {
    let scale = f16_at(block, 0);
    five_bits(&block[2..], |element, value| out[element] = (value - 16.0) * scale);
}

/// One block of 32 five-bit values with an f16 scale and an f16 minimum: `value = five bits * scale + minimum`; bits as
/// in [`dequantise_q5_0`], two bytes later.
///
/// ```
/// use kindling_kernels::dequantise::dequantise_q5_1;
/// let mut block = [0; 24];
/// block[..4].copy_from_slice(&[0x00, 0x38, 0x00, 0xbc]); // scale 0.5, minimum -1
/// block[4] = 0b01; // element 0 has its fifth bit
/// block[8] = 0xf3; // element 0 is 16 + 3, element 16 is 15
/// let mut out = [0.0; 32];
/// dequantise_q5_1(&block, &mut out);
/// assert_eq!((out[0], out[1], out[16]), (8.5, -1.0, 6.5));
/// ```
pub fn dequantise_q5_1(block: &[u8; 24], out: &mut [f32; BLOCK_ELEMENTS]) {
    let (scale, minimum) = (f16_at(block, 0), f16_at(block, 2));
    five_bits(&block[4..], |element, value| out[element] = value * scale + minimum);
}

/// Calls `place(element, five bits)` for a word of fifth bits and 16 bytes of nibbles.
fn five_bits(bytes: &[u8], mut place: impl FnMut(usize, f32)) {
    let fifth = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let with_fifth = |nibble: u8, element: usize| (u32::from(nibble) | (fifth >> element & 1) << 4) as f32;
    for (j, byte) in bytes[4..].iter().enumerate() {
        place(j, with_fifth(byte & 15, j));
        place(j + 16, with_fifth(byte >> 4, j + 16));
    }
}
