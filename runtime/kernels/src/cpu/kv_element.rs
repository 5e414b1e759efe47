//! The types that keys and values are kept in.

use super::lanes::{LANES, Lanes};
use crate::room::ZeroBytes;

/// The greatest f16. Nothing greater is stored, and no NaN, so that a block never holds what could spread to another
/// sequence.
const F16_MAX: f32 = 65504.0;
/// The greatest E4M3.
const E4M3_MAX: f32 = 448.0;
/// The smallest normal E4M3.
const E4M3_MIN_NORMAL: f32 = 0.015625;

/// One element of a key or a value.
pub(super) trait KvElement: Copy + ZeroBytes {
    /// What loaded elements have to be multiplied with.
    const FACTOR: f32;
    /// Whether elements are divided by the checkpoint's scales.
    const SCALED: bool;
    /// Zero.
    const ZERO: Self;

    /// Reads sixteen.
    fn load<L: Lanes>(lanes: L, stored: &[Self; LANES]) -> L::Floats;

    /// Rounds sixteen to the nearest.
    fn store<L: Lanes>(lanes: L, values: &[f32; LANES], out: &mut [Self; LANES]);
}

/// f16.
impl KvElement for u16 {
    const FACTOR: f32 = 1.0;
    const SCALED: bool = false;
    const ZERO: Self = 0;

    #[inline(always)]
    fn load<L: Lanes>(lanes: L, stored: &[Self; LANES]) -> L::Floats {
        lanes.load_f16(stored)
    }

    #[inline(always)]
    fn store<L: Lanes>(lanes: L, values: &[f32; LANES], out: &mut [Self; LANES]) {
        let (low, high) = (lanes.splat(-F16_MAX), lanes.splat(F16_MAX));
        lanes.store_f16(lanes.min(lanes.max(lanes.load(values), low), high), out);
    }
}

/// E4M3.
impl KvElement for u8 {
    const FACTOR: f32 = 256.0;
    const SCALED: bool = true;
    const ZERO: Self = 0;

    #[inline(always)]
    fn load<L: Lanes>(lanes: L, stored: &[Self; LANES]) -> L::Floats {
        lanes.load_e4m3_256ths(stored)
    }

    #[inline(always)]
    fn store<L: Lanes>(_: L, values: &[f32; LANES], out: &mut [Self; LANES]) {
        for (stored, value) in out.iter_mut().zip(values) {
            *stored = to_e4m3(*value);
        }
    }
}

/// f32: keys that have been converted for many queries.
impl KvElement for f32 {
    const FACTOR: f32 = 1.0;
    const SCALED: bool = false;
    const ZERO: Self = 0.0;

    #[inline(always)]
    fn load<L: Lanes>(lanes: L, stored: &[Self; LANES]) -> L::Floats {
        lanes.load(stored)
    }

    #[inline(always)]
    fn store<L: Lanes>(_: L, values: &[f32; LANES], out: &mut [Self; LANES]) {
        *out = *values;
    }
}

/// The nearest E4M3, ties to even; what is too great becomes the greatest, NaN the least.
#[inline(always)]
fn to_e4m3(value: f32) -> u8 {
    let value = if value > -E4M3_MAX { value } else { -E4M3_MAX };
    let (sign, magnitude) = ((value.to_bits() >> 24) as u8 & 0x80, value.abs().min(E4M3_MAX));
    let code = if magnitude < E4M3_MIN_NORMAL {
        (magnitude * 512.0).round_ties_even() as u8
    } else {
        let bits = magnitude.to_bits();
        // Three bits of mantissa stay; the exponent's bias goes from 127 to 7.
        ((bits + 0x7_ffff + (bits >> 20 & 1)) >> 20).wrapping_sub(120 << 3) as u8
    };
    sign | code
}

#[cfg(test)]
mod tests {
    use super::to_e4m3;
    use crate::dequantise::e4m3_to_f32;

    #[test]
    fn every_code_is_its_own_nearest_and_ties_go_to_even() {
        for code in (0..=255u8).filter(|code| code & 0x7f != 0x7f) {
            assert_eq!(to_e4m3(e4m3_to_f32(code)), code);
            if code & 0x7f < 0x7e {
                let (value, next) = (e4m3_to_f32(code), e4m3_to_f32(code + 1));
                assert_eq!(to_e4m3((value + next) / 2.0), code + (code & 1), "between {value} and {next}");
                assert_eq!(to_e4m3(value * 0.49 + next * 0.51), code + 1);
                assert_eq!(to_e4m3(value * 0.51 + next * 0.49), code);
            }
        }
    }

    #[test]
    fn what_is_too_great_is_the_greatest() {
        assert_eq!([1e9, f32::INFINITY, -1e9, f32::NAN].map(to_e4m3), [0x7e, 0x7e, 0xfe, 0xfe]);
    }
}
