//! From stored bytes to f32: what every stored type means, one element after another.
//!
//! Called when weights are loaded; the kernels of `cpu` read their own packed layouts and do not come here.

mod five_bits;
mod super_blocks;

use half::{bf16, f16};

pub use five_bits::{dequantise_q5_0, dequantise_q5_1};
pub use super_blocks::{SUPER_BLOCK_ELEMENTS, SuperBlockScales, dequantise_q4_k, dequantise_q5_k, dequantise_q6_k};

use crate::DType;

/// Elements of a quantised block.
pub const BLOCK_ELEMENTS: usize = 32;

/// Dequantises whole blocks of `dtype` from `bytes` into `out`.
///
/// # Shapes
/// `bytes`: `dtype.bytes_for(out.len())` bytes.
///
/// # Panics
/// If the two lengths disagree.
///
/// # Source
/// The GGUF format's definition of `ggml_type` blocks; safetensors' little-endian plain types.
///
/// ```
/// use kindling_kernels::{DType, dequantise::dequantise_into};
/// let mut two = [0.0; 2];
/// dequantise_into(DType::F32, &[0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0], &mut two);
/// assert_eq!(two, [1.0, -2.0]);
/// dequantise_into(DType::F16, &[0x00, 0x3c, 0x00, 0xc0], &mut two);
/// assert_eq!(two, [1.0, -2.0]);
/// dequantise_into(DType::BF16, &[0x80, 0x3f, 0x00, 0xc0], &mut two);
/// assert_eq!(two, [1.0, -2.0]);
/// ```
pub fn dequantise_into(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(Some(bytes.len()), dtype.bytes_for(out.len()), "{dtype}: bytes for {} elements", out.len());
    match dtype {
        DType::F32 => each::<4>(bytes, out, |b| f32::from_le_bytes(*b)),
        DType::F16 => each::<2>(bytes, out, |b| f16::from_le_bytes(*b).to_f32()),
        DType::BF16 => each::<2>(bytes, out, |b| bf16::from_le_bytes(*b).to_f32()),
        DType::Q8_0 => blocks::<34>(bytes, out, dequantise_q8_0),
        DType::Q4_0 => blocks::<18>(bytes, out, dequantise_q4_0),
        DType::Q4_1 => blocks::<20>(bytes, out, dequantise_q4_1),
        DType::Q5_0 => blocks::<22>(bytes, out, dequantise_q5_0),
        DType::Q5_1 => blocks::<24>(bytes, out, dequantise_q5_1),
        DType::Q4_K => sized_blocks::<144, 256>(bytes, out, dequantise_q4_k),
        DType::Q5_K => sized_blocks::<176, 256>(bytes, out, dequantise_q5_k),
        DType::Q6_K => sized_blocks::<210, 256>(bytes, out, dequantise_q6_k),
        DType::F8E4M3 => each::<1>(bytes, out, |b| e4m3_to_f32(b[0])),
        DType::F8E4M3Block128 => sized_blocks::<132, 128>(bytes, out, dequantise_f8_e4m3_block128),
        DType::NVFP4 => sized_blocks::<9, 16>(bytes, out, dequantise_nvfp4),
        DType::MXFP4 => sized_blocks::<17, 32>(bytes, out, dequantise_mxfp4),
    }
}

fn each<const BYTES: usize>(bytes: &[u8], out: &mut [f32], convert: impl Fn(&[u8; BYTES]) -> f32) {
    for (value, stored) in out.iter_mut().zip(bytes.as_chunks::<BYTES>().0) {
        *value = convert(stored);
    }
}

fn blocks<const BYTES: usize>(bytes: &[u8], out: &mut [f32], convert: impl Fn(&[u8; BYTES], &mut [f32; 32])) {
    sized_blocks::<BYTES, 32>(bytes, out, convert);
}

fn sized_blocks<const BYTES: usize, const ELEMENTS: usize>(
    bytes: &[u8],
    out: &mut [f32],
    convert: impl Fn(&[u8; BYTES], &mut [f32; ELEMENTS]),
) {
    for (values, stored) in out.as_chunks_mut::<ELEMENTS>().0.iter_mut().zip(bytes.as_chunks::<BYTES>().0) {
        convert(stored, values);
    }
}

fn f16_at(block: &[u8], offset: usize) -> f32 {
    f16::from_le_bytes([block[offset], block[offset + 1]]).to_f32()
}

/// One block of 32 signed bytes with an f16 scale: `value = byte * scale`.
///
/// ```
/// use kindling_kernels::dequantise::dequantise_q8_0;
/// let mut block = [0; 34];
/// block[..2].copy_from_slice(&[0x00, 0x38]); // scale 0.5
/// block[2] = 3;
/// block[33] = -4i8 as u8;
/// let mut out = [0.0; 32];
/// dequantise_q8_0(&block, &mut out);
/// assert_eq!((out[0], out[1], out[31]), (1.5, 0.0, -2.0));
/// ```
pub fn dequantise_q8_0(block: &[u8; 34], out: &mut [f32; BLOCK_ELEMENTS]) {
    let scale = f16_at(block, 0);
    for (value, byte) in out.iter_mut().zip(&block[2..]) {
        *value = f32::from(*byte as i8) * scale;
    }
}

/// One block of 32 nibbles with an f16 scale: `value = (nibble - 8) * scale`. Byte `j` holds element `j` in its low
/// nibble and element `j + 16` in its high one.
///
/// ```
/// use kindling_kernels::dequantise::dequantise_q4_0;
/// let mut block = [0x88; 18];
/// block[..2].copy_from_slice(&[0x00, 0x38]); // scale 0.5
/// block[2] = 0xf0; // element 0 is 0, element 16 is 15
/// let mut out = [0.0; 32];
/// dequantise_q4_0(&block, &mut out);
/// assert_eq!((out[0], out[1], out[16]), (-4.0, 0.0, 3.5));
/// ```
pub fn dequantise_q4_0(block: &[u8; 18], out: &mut [f32; BLOCK_ELEMENTS]) {
    let scale = f16_at(block, 0);
    for (j, byte) in block[2..].iter().enumerate() {
        out[j] = (f32::from(byte & 15) - 8.0) * scale;
        out[j + 16] = (f32::from(byte >> 4) - 8.0) * scale;
    }
}

/// One block of 32 nibbles with an f16 scale and an f16 minimum: `value = nibble * scale + minimum`. Byte `j` holds
/// element `j` in its low nibble and element `j + 16` in its high one.
///
/// ```
/// use kindling_kernels::dequantise::dequantise_q4_1;
/// let mut block = [0; 20];
/// block[..4].copy_from_slice(&[0x00, 0x38, 0x00, 0xbc]); // scale 0.5, minimum -1
/// block[4] = 0x72; // element 0 is 2, element 16 is 7
/// let mut out = [0.0; 32];
/// dequantise_q4_1(&block, &mut out);
/// assert_eq!((out[0], out[1], out[16]), (0.0, -1.0, 2.5));
/// ```
pub fn dequantise_q4_1(block: &[u8; 20], out: &mut [f32; BLOCK_ELEMENTS]) {
    let (scale, minimum) = (f16_at(block, 0), f16_at(block, 2));
    for (j, byte) in block[4..].iter().enumerate() {
        out[j] = f32::from(byte & 15) * scale + minimum;
        out[j + 16] = f32::from(byte >> 4) * scale + minimum;
    }
}

/// E2M1, the four-bit float, by code: sign in bit 3, then two bits of exponent and one of mantissa.
pub const E2M1: [f32; 16] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// OCP E4M3 ("fn"): bias 7, largest 448, no infinities, NaN where all other bits are set.
///
/// ```
/// use kindling_kernels::dequantise::e4m3_to_f32;
/// assert_eq!([0x38, 0x7e, 0x01, 0xb8].map(e4m3_to_f32), [1.0, 448.0, 0.001953125, -1.0]);
/// assert!(e4m3_to_f32(0x7f).is_nan() && e4m3_to_f32(0xff).is_nan());
/// ```
pub fn e4m3_to_f32(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let magnitude = match (exponent, code & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * 2f32.powi(-9),
        _ => (8.0 + mantissa) * 2f32.powi(exponent - 10),
    };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

/// One block of 128 E4M3 values of one row with an f32 scale: `value = e4m3 * scale`.
///
/// ```
/// use kindling_kernels::dequantise::dequantise_f8_e4m3_block128;
/// let mut block = [0; 132];
/// block[..4].copy_from_slice(&0.25f32.to_le_bytes());
/// block[4] = 0x38; // element 0 is 1
/// block[131] = 0xfe; // element 127 is -448
/// let mut out = [0.0; 128];
/// dequantise_f8_e4m3_block128(&block, &mut out);
/// assert_eq!((out[0], out[1], out[127]), (0.25, 0.0, -112.0));
/// ```
pub fn dequantise_f8_e4m3_block128(block: &[u8; 132], out: &mut [f32; 128]) {
    let scale = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    for (value, code) in out.iter_mut().zip(&block[4..]) {
        *value = e4m3_to_f32(*code) * scale;
    }
}

/// OCP E8M0, a power of two: bias 127, NaN where all bits are set.
///
/// ```
/// use kindling_kernels::dequantise::e8m0_to_f32;
/// assert_eq!([127, 128, 126].map(e8m0_to_f32), [1.0, 2.0, 0.5]);
/// assert!(e8m0_to_f32(0) > 0.0 && e8m0_to_f32(255).is_nan());
/// ```
pub fn e8m0_to_f32(code: u8) -> f32 {
    match code {
        // 2^-127 is below the normal numbers.
        0 => f32::from_bits(1 << 22),
        255 => f32::NAN,
        _ => f32::from_bits(u32::from(code) << 23),
    }
}

/// One block of 16 E2M1 nibbles with an E4M3 scale: `value = e2m1 * scale`; element `2j` in the low nibble of byte `j`.
///
/// ```
/// use kindling_kernels::dequantise::dequantise_nvfp4;
/// let mut block = [0; 9];
/// block[0] = 0x30; // scale 0.5
/// block[1] = 0xf2; // element 0 is 1, element 1 is -6
/// let mut out = [0.0; 16];
/// dequantise_nvfp4(&block, &mut out);
/// assert_eq!((out[0], out[1], out[2]), (0.5, -3.0, 0.0));
/// ```
pub fn dequantise_nvfp4(block: &[u8; 9], out: &mut [f32; 16]) {
    e2m1_into(e4m3_to_f32(block[0]), &block[1..], out);
}

/// One block of 32 E2M1 nibbles with an E8M0 scale: `value = e2m1 * scale`; element `2j` in the low nibble of byte `j`.
///
/// ```
/// use kindling_kernels::dequantise::dequantise_mxfp4;
/// let mut block = [0; 17];
/// block[0] = 128; // scale 2
/// block[16] = 0x91; // element 30 is 0.5, element 31 is -0.5
/// let mut out = [0.0; 32];
/// dequantise_mxfp4(&block, &mut out);
/// assert_eq!((out[0], out[30], out[31]), (0.0, 1.0, -1.0));
/// ```
pub fn dequantise_mxfp4(block: &[u8; 17], out: &mut [f32; 32]) {
    e2m1_into(e8m0_to_f32(block[0]), &block[1..], out);
}

fn e2m1_into(scale: f32, nibbles: &[u8], out: &mut [f32]) {
    for (pair, byte) in out.as_chunks_mut::<2>().0.iter_mut().zip(nibbles) {
        *pair = [E2M1[usize::from(byte & 15)] * scale, E2M1[usize::from(byte >> 4)] * scale];
    }
}
