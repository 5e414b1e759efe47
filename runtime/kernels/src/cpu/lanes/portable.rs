//! Plain loops over arrays: the truth for the other instruction sets, and what machines without them run.

use half::{bf16, f16};

use super::{ByteGroups, LANES, Lanes};

/// No particular instructions.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

#[inline(always)]
fn zip(a: [f32; LANES], b: [f32; LANES], combine: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|lane| combine(a[lane], b[lane]))
}

#[inline(always)]
fn dot(sum: [i32; LANES], weights: ByteGroups, activations: &[i8; 4], bias: i32) -> [i32; LANES] {
    let (groups, _) = weights.as_chunks::<4>();
    std::array::from_fn(|lane| {
        let products = groups[lane].iter().zip(activations).map(|(w, x)| (i32::from(*w) - bias) * i32::from(*x));
        sum[lane].wrapping_add(products.sum::<i32>())
    })
}

impl Lanes for Portable {
    type Floats = [f32; LANES];
    type Ints = [i32; LANES];
    type Bytes = ByteGroups;
    const DOT_I8_BIAS: i32 = 0;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::Floats {
        [value; LANES]
    }
    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> Self::Floats {
        *values
    }
    #[inline(always)]
    fn load_f16(self, values: &[u16; LANES]) -> Self::Floats {
        values.map(|bits| f16::from_bits(bits).to_f32())
    }
    #[inline(always)]
    fn load_bf16(self, values: &[u16; LANES]) -> Self::Floats {
        values.map(|bits| bf16::from_bits(bits).to_f32())
    }
    #[inline(always)]
    fn load_e4m3_256ths(self, codes: &[u8; LANES]) -> Self::Floats {
        codes.map(|code| f16::from_bits((u16::from(code & 0x80) << 8) | (u16::from(code & 0x7f) << 7)).to_f32())
    }
    #[inline(always)]
    fn load_e8m0(self, codes: &[u8; LANES]) -> Self::Floats {
        // 2^-127 is below the normal numbers.
        codes.map(|code| f32::from_bits((u32::from(code) << 23).max(1 << 22)))
    }
    #[inline(always)]
    fn load_i8(self, values: &[i8; LANES]) -> Self::Floats {
        values.map(f32::from)
    }
    #[inline(always)]
    fn store(self, values: Self::Floats, out: &mut [f32; LANES]) {
        *out = values;
    }
    #[inline(always)]
    fn store_f16(self, values: Self::Floats, out: &mut [u16; LANES]) {
        *out = values.map(|value| f16::from_f32(value).to_bits());
    }
    #[inline(always)]
    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn fma(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        std::array::from_fn(|lane| a[lane].mul_add(b[lane], c[lane]))
    }
    #[inline(always)]
    fn max(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn abs(self, a: Self::Floats) -> Self::Floats {
        a.map(f32::abs)
    }
    #[inline(always)]
    fn round(self, a: Self::Floats) -> Self::Ints {
        a.map(|value| value.round_ties_even() as i32)
    }
    #[inline(always)]
    fn power_of_two(self, a: Self::Ints) -> Self::Floats {
        a.map(|exponent| f32::from_bits((exponent.wrapping_add(127) as u32) << 23))
    }
    #[inline(always)]
    fn splat_int(self, value: i32) -> Self::Ints {
        [value; LANES]
    }
    #[inline(always)]
    fn to_floats(self, a: Self::Ints) -> Self::Floats {
        a.map(|value| value as f32)
    }
    #[inline(always)]
    fn store_quants(self, values: Self::Ints, out: &mut [i8; LANES]) {
        *out = values.map(|value| value.clamp(-128, 127) as i8);
    }
    #[inline(always)]
    fn sum_ints(self, a: Self::Ints, b: Self::Ints) -> i32 {
        a.iter().chain(&b).fold(0, |sum, value| sum.wrapping_add(*value))
    }
    #[inline(always)]
    fn load_bytes(self, values: &ByteGroups) -> Self::Bytes {
        *values
    }
    #[inline(always)]
    fn low_nibbles(self, a: Self::Bytes) -> Self::Bytes {
        a.map(|byte| byte & 15)
    }
    #[inline(always)]
    fn high_nibbles(self, a: Self::Bytes) -> Self::Bytes {
        a.map(|byte| byte >> 4)
    }
    #[inline(always)]
    fn look_up(self, table: &[u8; 16], a: Self::Bytes) -> Self::Bytes {
        a.map(|index| table[usize::from(index & 15)])
    }
    #[inline(always)]
    fn or_bits(self, low: Self::Bytes, bits: Self::Bytes, shift: i32, mask: u8) -> Self::Bytes {
        let shifted = |byte: u8| if shift < 0 { byte << -shift } else { byte >> shift };
        std::array::from_fn(|i| low[i] | (shifted(bits[i]) & mask))
    }
    #[inline(always)]
    fn dot_u6(self, sum: Self::Ints, weights: Self::Bytes, activations: &[i8; 4]) -> Self::Ints {
        dot(sum, weights, activations, 0)
    }
    #[inline(always)]
    fn dot_i8(self, sum: Self::Ints, weights: Self::Bytes, activations: &[i8; 4]) -> Self::Ints {
        dot(sum, weights, activations, 128)
    }
}
