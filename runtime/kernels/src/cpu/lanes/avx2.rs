//! AVX2 with FMA and F16C: two registers for each kind of vector.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::{ByteGroups, LANES, Lanes};

/// Witness that the machine has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// The witness.
    ///
    /// # Safety
    /// The machine must have AVX2, FMA and F16C.
    #[inline(always)]
    pub unsafe fn new() -> Self {
        Self(())
    }
}

/// Calls an intrinsic.
macro_rules! x86 {
    ($call:expr) => {
        // SAFETY: the witness `self` says that the machine has the instruction; pointers come from references to
        // arrays of the size that is read or written, and no alignment is asked for.
        unsafe { $call }
    };
}

/// Calls an intrinsic on both halves.
macro_rules! halves {
    ($call:ident, $($argument:ident),+) => {
        [x86!($call($($argument[0]),+)), x86!($call($($argument[1]),+))]
    };
}

impl Lanes for Avx2 {
    type Floats = [__m256; 2];
    type Ints = [__m256i; 2];
    type Bytes = [__m256i; 2];
    const DOT_I8_BIAS: i32 = 0;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::Floats {
        [x86!(_mm256_set1_ps(value)); 2]
    }
    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> Self::Floats {
        [x86!(_mm256_loadu_ps(values.as_ptr())), x86!(_mm256_loadu_ps(values.as_ptr().add(8)))]
    }
    #[inline(always)]
    fn load_f16(self, values: &[u16; LANES]) -> Self::Floats {
        [
            x86!(_mm256_cvtph_ps(_mm_loadu_si128(values.as_ptr().cast()))),
            x86!(_mm256_cvtph_ps(_mm_loadu_si128(values.as_ptr().add(8).cast()))),
        ]
    }
    #[inline(always)]
    fn load_bf16(self, values: &[u16; LANES]) -> Self::Floats {
        let low = x86!(_mm256_cvtepu16_epi32(_mm_loadu_si128(values.as_ptr().cast())));
        let high = x86!(_mm256_cvtepu16_epi32(_mm_loadu_si128(values.as_ptr().add(8).cast())));
        [
            x86!(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(low))),
            x86!(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(high))),
        ]
    }
    #[inline(always)]
    fn load_e4m3_256ths(self, codes: &[u8; LANES]) -> Self::Floats {
        // The sign goes to bit 15, exponent and mantissa behind bit 14.
        let words = x86!(_mm256_slli_epi16::<7>(_mm256_cvtepi8_epi16(_mm_loadu_si128(codes.as_ptr().cast()))));
        let words = x86!(_mm256_and_si256(words, _mm256_set1_epi16(!(1 << 14))));
        [
            x86!(_mm256_cvtph_ps(_mm256_castsi256_si128(words))),
            x86!(_mm256_cvtph_ps(_mm256_extracti128_si256::<1>(words))),
        ]
    }
    #[inline(always)]
    fn load_e8m0(self, codes: &[u8; LANES]) -> Self::Floats {
        let codes = x86!(_mm_loadu_si128(codes.as_ptr().cast()));
        // 2^-127 is below the normal numbers.
        let smallest = x86!(_mm256_set1_epi32(1 << 22));
        let low = x86!(_mm256_slli_epi32::<23>(_mm256_cvtepu8_epi32(codes)));
        let high = x86!(_mm256_slli_epi32::<23>(_mm256_cvtepu8_epi32(_mm_srli_si128::<8>(codes))));
        [
            x86!(_mm256_castsi256_ps(_mm256_max_epi32(low, smallest))),
            x86!(_mm256_castsi256_ps(_mm256_max_epi32(high, smallest))),
        ]
    }
    #[inline(always)]
    fn load_i8(self, values: &[i8; LANES]) -> Self::Floats {
        let values = x86!(_mm_loadu_si128(values.as_ptr().cast()));
        [
            x86!(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(values))),
            x86!(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128::<8>(values)))),
        ]
    }
    #[inline(always)]
    fn store(self, values: Self::Floats, out: &mut [f32; LANES]) {
        x86!(_mm256_storeu_ps(out.as_mut_ptr(), values[0]));
        x86!(_mm256_storeu_ps(out.as_mut_ptr().add(8), values[1]));
    }
    #[inline(always)]
    fn store_f16(self, values: Self::Floats, out: &mut [u16; LANES]) {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT;
        x86!(_mm_storeu_si128(out.as_mut_ptr().cast(), _mm256_cvtps_ph::<NEAREST>(values[0])));
        x86!(_mm_storeu_si128(out.as_mut_ptr().add(8).cast(), _mm256_cvtps_ph::<NEAREST>(values[1])));
    }
    #[inline(always)]
    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        halves!(_mm256_add_ps, a, b)
    }
    #[inline(always)]
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        halves!(_mm256_mul_ps, a, b)
    }
    #[inline(always)]
    fn div(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        halves!(_mm256_div_ps, a, b)
    }
    #[inline(always)]
    fn fma(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        halves!(_mm256_fmadd_ps, a, b, c)
    }
    #[inline(always)]
    fn max(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        halves!(_mm256_max_ps, a, b)
    }
    #[inline(always)]
    fn min(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        halves!(_mm256_min_ps, a, b)
    }
    #[inline(always)]
    fn abs(self, a: Self::Floats) -> Self::Floats {
        let sign = [x86!(_mm256_set1_ps(-0.0)); 2];
        halves!(_mm256_andnot_ps, sign, a)
    }
    #[inline(always)]
    fn round(self, a: Self::Floats) -> Self::Ints {
        halves!(_mm256_cvtps_epi32, a)
    }
    #[inline(always)]
    fn power_of_two(self, a: Self::Ints) -> Self::Floats {
        let offset = self.splat_int(127);
        let biased = halves!(_mm256_add_epi32, a, offset);
        [
            x86!(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased[0]))),
            x86!(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased[1]))),
        ]
    }
    #[inline(always)]
    fn splat_int(self, value: i32) -> Self::Ints {
        [x86!(_mm256_set1_epi32(value)); 2]
    }
    #[inline(always)]
    fn to_floats(self, a: Self::Ints) -> Self::Floats {
        halves!(_mm256_cvtepi32_ps, a)
    }
    #[inline(always)]
    fn store_quants(self, values: Self::Ints, out: &mut [i8; LANES]) {
        let words = x86!(_mm256_packs_epi32(values[0], values[1]));
        // The pack works within halves; this puts the quarters in order.
        let words = x86!(_mm256_permute4x64_epi64::<0b11_01_10_00>(words));
        let (low, high) = (x86!(_mm256_castsi256_si128(words)), x86!(_mm256_extracti128_si256::<1>(words)));
        x86!(_mm_storeu_si128(out.as_mut_ptr().cast(), _mm_packs_epi16(low, high)));
    }
    #[inline(always)]
    fn sum_ints(self, a: Self::Ints, b: Self::Ints) -> i32 {
        let sums = halves!(_mm256_add_epi32, a, b);
        let mut values = [0i32; 8];
        x86!(_mm256_storeu_si256(values.as_mut_ptr().cast(), _mm256_add_epi32(sums[0], sums[1])));
        values.iter().fold(0, |sum, value| sum.wrapping_add(*value))
    }
    #[inline(always)]
    fn prefetch<T>(self, value: &T, ahead: usize) {
        let start = std::ptr::from_ref(value).cast::<i8>().wrapping_add(ahead);
        for offset in (0..size_of::<T>()).step_by(64) {
            x86!(_mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(offset)));
        }
    }
    #[inline(always)]
    fn load_bytes(self, values: &ByteGroups) -> Self::Bytes {
        [x86!(_mm256_loadu_si256(values.as_ptr().cast())), x86!(_mm256_loadu_si256(values.as_ptr().add(32).cast()))]
    }
    #[inline(always)]
    fn low_nibbles(self, a: Self::Bytes) -> Self::Bytes {
        let mask = [x86!(_mm256_set1_epi8(15)); 2];
        halves!(_mm256_and_si256, a, mask)
    }
    #[inline(always)]
    fn high_nibbles(self, a: Self::Bytes) -> Self::Bytes {
        let mask = x86!(_mm256_set1_epi8(15));
        [
            x86!(_mm256_and_si256(_mm256_srli_epi16::<4>(a[0]), mask)),
            x86!(_mm256_and_si256(_mm256_srli_epi16::<4>(a[1]), mask)),
        ]
    }
    #[inline(always)]
    fn look_up(self, table: &[u8; 16], a: Self::Bytes) -> Self::Bytes {
        let table = [x86!(_mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()))); 2];
        halves!(_mm256_shuffle_epi8, table, a)
    }
    #[inline(always)]
    fn or_bits(self, low: Self::Bytes, bits: Self::Bytes, shift: i32, mask: u8) -> Self::Bytes {
        let (count, mask) = (x86!(_mm_cvtsi32_si128(shift.abs())), [x86!(_mm256_set1_epi8(mask as i8)); 2]);
        let shifted = if shift < 0 {
            [x86!(_mm256_sll_epi16(bits[0], count)), x86!(_mm256_sll_epi16(bits[1], count))]
        } else {
            [x86!(_mm256_srl_epi16(bits[0], count)), x86!(_mm256_srl_epi16(bits[1], count))]
        };
        let masked = halves!(_mm256_and_si256, shifted, mask);
        halves!(_mm256_or_si256, low, masked)
    }
    #[inline(always)]
    fn dot_u6(self, sum: Self::Ints, weights: Self::Bytes, activations: &[i8; 4]) -> Self::Ints {
        let group = self.splat_int(i32::from_ne_bytes(activations.map(|x| x as u8)));
        let ones = [x86!(_mm256_set1_epi16(1)); 2];
        let pairs = halves!(_mm256_maddubs_epi16, weights, group);
        let fours = halves!(_mm256_madd_epi16, pairs, ones);
        halves!(_mm256_add_epi32, sum, fours)
    }
    /// The unsigned factor is the weight's magnitude, its sign moves to the activation: no pair can saturate.
    #[inline(always)]
    fn dot_i8(self, sum: Self::Ints, weights: Self::Bytes, activations: &[i8; 4]) -> Self::Ints {
        let group = self.splat_int(i32::from_ne_bytes(activations.map(|x| x as u8)));
        let (ones, flip) = ([x86!(_mm256_set1_epi16(1)); 2], [x86!(_mm256_set1_epi8(-128)); 2]);
        let weights = halves!(_mm256_xor_si256, weights, flip);
        let magnitudes = halves!(_mm256_abs_epi8, weights);
        let signed = halves!(_mm256_sign_epi8, group, weights);
        let pairs = halves!(_mm256_maddubs_epi16, magnitudes, signed);
        let fours = halves!(_mm256_madd_epi16, pairs, ones);
        halves!(_mm256_add_epi32, sum, fours)
    }
}
