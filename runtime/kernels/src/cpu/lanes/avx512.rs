//! AVX-512 with VNNI: one register for each kind of vector.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::{ByteGroups, LANES, Lanes};

/// Witness that the machine has AVX-512 F, BW, VL and VNNI.
#[derive(Clone, Copy)]
pub(crate) struct Avx512Vnni(());

impl Avx512Vnni {
    /// The witness.
    ///
    /// # Safety
    /// The machine must have AVX-512 F, BW, VL and VNNI, AVX2, FMA and F16C.
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

impl Lanes for Avx512Vnni {
    type Floats = __m512;
    type Ints = __m512i;
    type Bytes = __m512i;
    const DOT_I8_BIAS: i32 = 128;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::Floats {
        x86!(_mm512_set1_ps(value))
    }
    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> Self::Floats {
        x86!(_mm512_loadu_ps(values.as_ptr()))
    }
    #[inline(always)]
    fn load_f16(self, values: &[u16; LANES]) -> Self::Floats {
        x86!(_mm512_cvtph_ps(_mm256_loadu_si256(values.as_ptr().cast())))
    }
    #[inline(always)]
    fn load_bf16(self, values: &[u16; LANES]) -> Self::Floats {
        x86!(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(
            values.as_ptr().cast()
        )))))
    }
    #[inline(always)]
    fn load_e4m3_256ths(self, codes: &[u8; LANES]) -> Self::Floats {
        // The sign goes to bit 15, exponent and mantissa behind bit 14.
        let words = x86!(_mm256_slli_epi16::<7>(_mm256_cvtepi8_epi16(_mm_loadu_si128(codes.as_ptr().cast()))));
        x86!(_mm512_cvtph_ps(_mm256_and_si256(words, _mm256_set1_epi16(!(1 << 14)))))
    }
    #[inline(always)]
    fn load_e8m0(self, codes: &[u8; LANES]) -> Self::Floats {
        let words = x86!(_mm512_slli_epi32::<23>(_mm512_cvtepu8_epi32(_mm_loadu_si128(codes.as_ptr().cast()))));
        // 2^-127 is below the normal numbers.
        x86!(_mm512_castsi512_ps(_mm512_max_epi32(words, _mm512_set1_epi32(1 << 22))))
    }
    #[inline(always)]
    fn load_i8(self, values: &[i8; LANES]) -> Self::Floats {
        x86!(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(values.as_ptr().cast()))))
    }
    #[inline(always)]
    fn store(self, values: Self::Floats, out: &mut [f32; LANES]) {
        x86!(_mm512_storeu_ps(out.as_mut_ptr(), values));
    }
    #[inline(always)]
    fn store_f16(self, values: Self::Floats, out: &mut [u16; LANES]) {
        x86!(_mm256_storeu_si256(
            out.as_mut_ptr().cast(),
            _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(values)
        ));
    }
    #[inline(always)]
    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        x86!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        x86!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        x86!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        x86!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        x86!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        x86!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn abs(self, a: Self::Floats) -> Self::Floats {
        x86!(_mm512_abs_ps(a))
    }
    #[inline(always)]
    fn round(self, a: Self::Floats) -> Self::Ints {
        x86!(_mm512_cvtps_epi32(a))
    }
    #[inline(always)]
    fn power_of_two(self, a: Self::Ints) -> Self::Floats {
        x86!(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_add_epi32(a, _mm512_set1_epi32(127)))))
    }
    #[inline(always)]
    fn splat_int(self, value: i32) -> Self::Ints {
        x86!(_mm512_set1_epi32(value))
    }
    #[inline(always)]
    fn to_floats(self, a: Self::Ints) -> Self::Floats {
        x86!(_mm512_cvtepi32_ps(a))
    }
    #[inline(always)]
    fn store_quants(self, values: Self::Ints, out: &mut [i8; LANES]) {
        x86!(_mm_storeu_si128(out.as_mut_ptr().cast(), _mm512_cvtsepi32_epi8(values)));
    }
    #[inline(always)]
    fn sum_ints(self, a: Self::Ints, b: Self::Ints) -> i32 {
        x86!(_mm512_reduce_add_epi32(_mm512_add_epi32(a, b)))
    }
    #[inline(always)]
    fn highest(self, a: Self::Floats) -> f32 {
        x86!(_mm512_reduce_max_ps(a))
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
        x86!(_mm512_loadu_si512(values.as_ptr().cast()))
    }
    #[inline(always)]
    fn low_nibbles(self, a: Self::Bytes) -> Self::Bytes {
        x86!(_mm512_and_si512(a, _mm512_set1_epi8(15)))
    }
    #[inline(always)]
    fn high_nibbles(self, a: Self::Bytes) -> Self::Bytes {
        x86!(_mm512_and_si512(_mm512_srli_epi16::<4>(a), _mm512_set1_epi8(15)))
    }
    #[inline(always)]
    fn look_up(self, table: &[u8; 16], a: Self::Bytes) -> Self::Bytes {
        let table = x86!(_mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())));
        x86!(_mm512_shuffle_epi8(table, a))
    }
    #[inline(always)]
    fn or_bits(self, low: Self::Bytes, bits: Self::Bytes, shift: i32, mask: u8) -> Self::Bytes {
        let count = x86!(_mm_cvtsi32_si128(shift.abs()));
        let shifted = if shift < 0 { x86!(_mm512_sll_epi16(bits, count)) } else { x86!(_mm512_srl_epi16(bits, count)) };
        x86!(_mm512_or_si512(low, _mm512_and_si512(shifted, _mm512_set1_epi8(mask as i8))))
    }
    #[inline(always)]
    fn dot_u6(self, sum: Self::Ints, weights: Self::Bytes, activations: &[i8; 4]) -> Self::Ints {
        let group = i32::from_ne_bytes(activations.map(|x| x as u8));
        x86!(_mm512_dpbusd_epi32(sum, weights, _mm512_set1_epi32(group)))
    }
    #[inline(always)]
    fn dot_i8(self, sum: Self::Ints, weights: Self::Bytes, activations: &[i8; 4]) -> Self::Ints {
        self.dot_u6(sum, weights, activations)
    }
}
