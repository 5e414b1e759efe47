//! From f32 to NVFP4: blocks of sixteen E2M1 values with an E4M3 scale, and one f32 factor for the tensor.
//!
//! Called when checkpoints are made. The way back is [`crate::dequantise`].

use crate::dequantise::{E2M1, e4m3_to_f32};

/// Elements that share a scale.
pub const BLOCK: usize = 16;
/// Largest E2M1 value.
const E2M1_MAX: f32 = 6.0;
/// Largest E4M3 value, and its code.
const E4M3_MAX: f32 = 448.0;
const E4M3_MAX_CODE: u8 = 0x7e;
/// With the search, the largest block scale that plain rounding would take: 1.5 times as much must still be there for
/// blocks whose largest element is better as 4 than as 6.
const SEARCH_MAX: f32 = 256.0;
/// Codes that the search tries below the one that makes the largest element 6; a scale lower by three eighths clips it
/// more than any other element can gain.
const CODES_BELOW: u8 = 3;

/// How the scale of a block is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScaleChoice {
    /// The largest element becomes 6.
    Round,
    /// The scale with the least squared error of those that make the largest element between 4 and what little
    /// clipping can pay.
    Search,
}

/// One encoded block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nvfp4Block {
    /// E4M3.
    pub scale: u8,
    /// Byte `j` holds element `2j` in its low nibble and `2j + 1` in its high one.
    pub nibbles: [u8; BLOCK / 2],
}

/// The factor of a tensor whose largest magnitude is `amax`; finite and positive.
///
/// ```
/// use kindling_kernels::nvfp4::{ScaleChoice, tensor_scale};
/// assert_eq!(tensor_scale(2688.0, ScaleChoice::Round), 1.0); // 6 * 448
/// assert_eq!(tensor_scale(0.0, ScaleChoice::Round), 1.0);
/// ```
pub fn tensor_scale(amax: f32, choice: ScaleChoice) -> f32 {
    let largest = match choice {
        ScaleChoice::Round => E4M3_MAX,
        ScaleChoice::Search => SEARCH_MAX,
    };
    let scale = amax / (E2M1_MAX * largest);
    if scale.is_normal() { scale } else { 1.0 }
}

/// The nearest E2M1 code; ties go to the code with an even mantissa, magnitudes beyond 6 become 6.
///
/// ```
/// use kindling_kernels::nvfp4::e2m1_from_f32;
/// assert_eq!([0.25, 0.75, 2.5, 5.0, 5.1, 1e9, -0.6].map(e2m1_from_f32), [0, 2, 4, 6, 7, 7, 9]);
/// ```
pub fn e2m1_from_f32(value: f32) -> u8 {
    let magnitude = value.abs();
    let above = [magnitude > 0.25, magnitude > 1.25, magnitude > 2.5, magnitude > 5.0];
    let at_least = [magnitude >= 0.75, magnitude >= 1.75, magnitude >= 3.5];
    let code: u8 = above.iter().chain(&at_least).map(|passed| u8::from(*passed)).sum();
    code | u8::from(value < 0.0) << 3
}

/// The nearest E4M3 code of a number that is not negative; ties go to even, and what is beyond 448 becomes 448.
///
/// ```
/// use kindling_kernels::nvfp4::e4m3_from_f32;
/// assert_eq!([1.0, 448.0, 1e9, 0.001953125, 1.0625, 1.1875].map(e4m3_from_f32), [0x38, 0x7e, 0x7e, 1, 0x38, 0x3a]);
/// ```
pub fn e4m3_from_f32(value: f32) -> u8 {
    let value = value.clamp(0.0, E4M3_MAX);
    // Below the normal numbers, codes count steps of 2^-9.
    if value < 2f32.powi(-6) {
        return (value * 512.0).round_ties_even() as u8;
    }
    let bits = value.to_bits();
    let rounded = bits + 0x7_ffff + (bits >> 20 & 1);
    ((rounded >> 20) - ((127 - 7) << 3)).min(u32::from(E4M3_MAX_CODE)) as u8
}

/// Encodes one block; `value = e2m1 * scale * tensor_scale`.
///
/// ```
/// use kindling_kernels::nvfp4::{ScaleChoice, encode_block};
/// let mut values = [0.0; 16];
/// values[..4].copy_from_slice(&[6.0, -3.0, 0.5, 1.0]);
/// let block = encode_block(&values, 1.0, ScaleChoice::Round);
/// assert_eq!((block.scale, &block.nibbles[..3]), (0x38, &[0xd7, 0x21, 0][..]));
/// ```
pub fn encode_block(values: &[f32; BLOCK], tensor_scale: f32, choice: ScaleChoice) -> Nvfp4Block {
    let amax = values.iter().fold(0f32, |amax, value| amax.max(value.abs()));
    let plain = e4m3_from_f32(amax / E2M1_MAX / tensor_scale).max(1);
    let scale = match choice {
        ScaleChoice::Round => plain,
        ScaleChoice::Search => {
            let largest = e4m3_from_f32(amax / 4.0 / tensor_scale).saturating_add(1).clamp(plain, E4M3_MAX_CODE);
            let smallest = plain.saturating_sub(CODES_BELOW).max(1);
            let mut best = (squared_error(values, plain, tensor_scale), plain);
            for code in (smallest..=largest).filter(|code| *code != plain) {
                let error = squared_error(values, code, tensor_scale);
                if error < best.0 {
                    best = (error, code);
                }
            }
            best.1
        }
    };
    let unit = e4m3_to_f32(scale) * tensor_scale;
    let codes = values.map(|value| e2m1_from_f32(value / unit));
    let mut nibbles = [0; BLOCK / 2];
    for (byte, [low, high]) in nibbles.iter_mut().zip(codes.as_chunks::<2>().0) {
        *byte = low | high << 4;
    }
    Nvfp4Block { scale, nibbles }
}

/// Of a block with this scale.
fn squared_error(values: &[f32; BLOCK], scale: u8, tensor_scale: f32) -> f32 {
    let unit = e4m3_to_f32(scale) * tensor_scale;
    let error = |value: &f32| {
        let difference = value / unit - E2M1[usize::from(e2m1_from_f32(value / unit))];
        difference * difference
    };
    values.iter().map(error).sum::<f32>() * unit * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_comes_back() {
        for code in 0..=E4M3_MAX_CODE {
            assert_eq!(e4m3_from_f32(e4m3_to_f32(code)), code);
        }
        for (code, value) in E2M1.iter().enumerate().filter(|(code, _)| *code != 8) {
            assert_eq!(usize::from(e2m1_from_f32(*value)), code);
        }
    }

    #[test]
    fn the_search_is_never_worse_than_plain_rounding_with_the_same_tensor_scale() {
        let mut state = 0x5eed_0003u64;
        let mut better = 0;
        for _ in 0..2000 {
            let values: [f32; BLOCK] = std::array::from_fn(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                ((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 0.1
            });
            let scale = tensor_scale(0.06, ScaleChoice::Search);
            let error = |choice| squared_error(&values, encode_block(&values, scale, choice).scale, scale);
            assert!(error(ScaleChoice::Search) <= error(ScaleChoice::Round));
            better += usize::from(error(ScaleChoice::Search) < 0.9 * error(ScaleChoice::Round));
        }
        assert!(better > 200, "only {better} of 2000 gained a tenth: the search does nothing");
    }
}
