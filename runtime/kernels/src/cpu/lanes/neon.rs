//! Arm NEON: four registers for each kind of vector, and three ways to multiply bytes ([`Dots`]).
//!
//! The instructions that dotprod and i8mm add have no stable intrinsics in Rust 1.96; they are written as assembly.
#![allow(unsafe_code)]

use std::arch::aarch64::*;
use std::arch::asm;
use std::marker::PhantomData;

use super::{ByteGroups, LANES, Lanes};

/// Witness that the machine has NEON and what `D` needs.
#[derive(Clone, Copy)]
pub(crate) struct Neon<D>(PhantomData<D>);

impl<D: Dots> Neon<D> {
    /// The witness.
    ///
    /// # Safety
    /// The machine must have NEON and what `D` needs.
    #[inline(always)]
    pub unsafe fn new() -> Self {
        Self(PhantomData)
    }
}

/// How four bytes are multiplied by four bytes and summed, in each of four lanes.
pub(crate) trait Dots: Copy {
    /// See [`Lanes::DOT_I8_BIAS`].
    const DOT_I8_BIAS: i32;
    /// See [`Lanes::dot_u6`].
    ///
    /// # Safety
    /// The machine must have the instructions.
    unsafe fn dot_u6(sum: int32x4_t, weights: uint8x16_t, activations: int8x16_t) -> int32x4_t;
    /// See [`Lanes::dot_i8`].
    ///
    /// # Safety
    /// The machine must have the instructions.
    unsafe fn dot_i8(sum: int32x4_t, weights: uint8x16_t, activations: int8x16_t) -> int32x4_t;
}

/// What every Arm machine of 64 bits has: products of bytes in 16 bits.
#[derive(Clone, Copy)]
pub(crate) struct Widening;

/// dotprod: four signed bytes by four signed bytes.
#[derive(Clone, Copy)]
pub(crate) struct Dotprod;

/// i8mm: four unsigned bytes by four signed bytes.
#[derive(Clone, Copy)]
pub(crate) struct I8mm;

/// Calls an intrinsic.
macro_rules! neon {
    ($call:expr) => {
        // SAFETY: the witness `self` says that the machine has the instruction; pointers come from references to
        // arrays of the size that is read or written, and no alignment is asked for.
        unsafe { $call }
    };
}

/// Calls an intrinsic on all four quarters.
macro_rules! quarters {
    ($call:expr, $($argument:ident),+) => {
        [
            neon!($call($($argument[0]),+)),
            neon!($call($($argument[1]),+)),
            neon!($call($($argument[2]),+)),
            neon!($call($($argument[3]),+)),
        ]
    };
}

/// Takes 128 off each byte, which makes stored weights signed.
#[inline]
#[target_feature(enable = "neon")]
fn signed(weights: uint8x16_t) -> int8x16_t {
    vreinterpretq_s8_u8(veorq_u8(weights, vdupq_n_u8(128)))
}

/// Two products in 16 bits cannot overflow: at most `2 * 128 * 127`.
#[inline]
#[target_feature(enable = "neon")]
fn widening_dot(sum: int32x4_t, weights: int8x16_t, activations: int8x16_t) -> int32x4_t {
    let low = vmull_s8(vget_low_s8(weights), vget_low_s8(activations));
    let high = vmull_high_s8(weights, activations);
    vpadalq_s16(sum, vpaddq_s16(low, high))
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot(mut sum: int32x4_t, weights: int8x16_t, activations: int8x16_t) -> int32x4_t {
    // SAFETY: the function has the feature; the instruction reads and writes these registers only.
    unsafe {
        asm!("sdot {sum:v}.4s, {weights:v}.16b, {activations:v}.16b",
            sum = inout(vreg) sum, weights = in(vreg) weights, activations = in(vreg) activations,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

#[inline]
#[target_feature(enable = "neon,i8mm")]
fn usdot(mut sum: int32x4_t, weights: uint8x16_t, activations: int8x16_t) -> int32x4_t {
    // SAFETY: the function has the feature; the instruction reads and writes these registers only.
    unsafe {
        asm!("usdot {sum:v}.4s, {weights:v}.16b, {activations:v}.16b",
            sum = inout(vreg) sum, weights = in(vreg) weights, activations = in(vreg) activations,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

impl Dots for Widening {
    const DOT_I8_BIAS: i32 = 0;
    #[inline(always)]
    unsafe fn dot_u6(sum: int32x4_t, weights: uint8x16_t, activations: int8x16_t) -> int32x4_t {
        // SAFETY: the caller says that the machine has the instructions.
        unsafe { widening_dot(sum, vreinterpretq_s8_u8(weights), activations) }
    }
    #[inline(always)]
    unsafe fn dot_i8(sum: int32x4_t, weights: uint8x16_t, activations: int8x16_t) -> int32x4_t {
        // SAFETY: as above.
        unsafe { widening_dot(sum, signed(weights), activations) }
    }
}

impl Dots for Dotprod {
    const DOT_I8_BIAS: i32 = 0;
    #[inline(always)]
    unsafe fn dot_u6(sum: int32x4_t, weights: uint8x16_t, activations: int8x16_t) -> int32x4_t {
        // SAFETY: the caller says that the machine has the instructions.
        unsafe { sdot(sum, vreinterpretq_s8_u8(weights), activations) }
    }
    #[inline(always)]
    unsafe fn dot_i8(sum: int32x4_t, weights: uint8x16_t, activations: int8x16_t) -> int32x4_t {
        // SAFETY: as above.
        unsafe { sdot(sum, signed(weights), activations) }
    }
}

impl Dots for I8mm {
    const DOT_I8_BIAS: i32 = 128;
    #[inline(always)]
    unsafe fn dot_u6(sum: int32x4_t, weights: uint8x16_t, activations: int8x16_t) -> int32x4_t {
        // SAFETY: the caller says that the machine has the instructions.
        unsafe { usdot(sum, weights, activations) }
    }
    #[inline(always)]
    unsafe fn dot_i8(sum: int32x4_t, weights: uint8x16_t, activations: int8x16_t) -> int32x4_t {
        // SAFETY: as above.
        unsafe { usdot(sum, weights, activations) }
    }
}

impl<D: Dots> Neon<D> {
    #[inline(always)]
    fn halves(self, values: &[u16; LANES]) -> [uint16x4_t; 4] {
        let start = values.as_ptr();
        neon!([vld1_u16(start), vld1_u16(start.add(4)), vld1_u16(start.add(8)), vld1_u16(start.add(12))])
    }

    #[inline(always)]
    fn group(self, activations: &[i8; 4]) -> int8x16_t {
        neon!(vreinterpretq_s8_s32(vdupq_n_s32(i32::from_ne_bytes(activations.map(|x| x as u8)))))
    }
}

impl<D: Dots> Lanes for Neon<D> {
    type Floats = [float32x4_t; 4];
    type Ints = [int32x4_t; 4];
    type Bytes = [uint8x16_t; 4];
    const DOT_I8_BIAS: i32 = D::DOT_I8_BIAS;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::Floats {
        [neon!(vdupq_n_f32(value)); 4]
    }
    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> Self::Floats {
        let start = values.as_ptr();
        neon!([vld1q_f32(start), vld1q_f32(start.add(4)), vld1q_f32(start.add(8)), vld1q_f32(start.add(12))])
    }
    #[inline(always)]
    fn load_f16(self, values: &[u16; LANES]) -> Self::Floats {
        let halves = self.halves(values);
        let halves = quarters!(vreinterpret_f16_u16, halves);
        quarters!(vcvt_f32_f16, halves)
    }
    #[inline(always)]
    fn load_bf16(self, values: &[u16; LANES]) -> Self::Floats {
        let halves = self.halves(values);
        let bits = quarters!(vshll_n_u16::<16>, halves);
        quarters!(vreinterpretq_f32_u32, bits)
    }
    #[inline(always)]
    fn load_e4m3_256ths(self, codes: &[u8; LANES]) -> Self::Floats {
        // The sign goes to bit 15, exponent and mantissa behind bit 14.
        let words = neon!({
            let (codes, behind) = (vld1q_s8(codes.as_ptr().cast()), vdupq_n_s16(!(1 << 14)));
            let low = vandq_s16(vshll_n_s8::<7>(vget_low_s8(codes)), behind);
            let high = vandq_s16(vshll_high_n_s8::<7>(codes), behind);
            [vget_low_s16(low), vget_high_s16(low), vget_low_s16(high), vget_high_s16(high)]
        });
        let halves = quarters!(vreinterpret_f16_s16, words);
        quarters!(vcvt_f32_f16, halves)
    }
    #[inline(always)]
    fn load_e8m0(self, codes: &[u8; LANES]) -> Self::Floats {
        let codes = neon!({
            let codes = vld1q_u8(codes.as_ptr());
            let (low, high) = (vmovl_u8(vget_low_u8(codes)), vmovl_high_u8(codes));
            [vmovl_u16(vget_low_u16(low)), vmovl_high_u16(low), vmovl_u16(vget_low_u16(high)), vmovl_high_u16(high)]
        });
        // 2^-127 is below the normal numbers.
        let smallest = [neon!(vdupq_n_u32(1 << 22)); 4];
        let bits = quarters!(vshlq_n_u32::<23>, codes);
        let bits = quarters!(vmaxq_u32, bits, smallest);
        quarters!(vreinterpretq_f32_u32, bits)
    }
    #[inline(always)]
    fn load_i8(self, values: &[i8; LANES]) -> Self::Floats {
        let words = neon!({
            let values = vld1q_s8(values.as_ptr());
            let (low, high) = (vmovl_s8(vget_low_s8(values)), vmovl_high_s8(values));
            [vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low), vmovl_s16(vget_low_s16(high)), vmovl_high_s16(high)]
        });
        quarters!(vcvtq_f32_s32, words)
    }
    #[inline(always)]
    fn store(self, values: Self::Floats, out: &mut [f32; LANES]) {
        let start = out.as_mut_ptr();
        neon!({
            vst1q_f32(start, values[0]);
            vst1q_f32(start.add(4), values[1]);
            vst1q_f32(start.add(8), values[2]);
            vst1q_f32(start.add(12), values[3]);
        });
    }
    #[inline(always)]
    fn store_f16(self, values: Self::Floats, out: &mut [u16; LANES]) {
        let halves = quarters!(vcvt_f16_f32, values);
        let bits = quarters!(vreinterpret_u16_f16, halves);
        let start = out.as_mut_ptr();
        neon!({
            vst1q_u16(start, vcombine_u16(bits[0], bits[1]));
            vst1q_u16(start.add(8), vcombine_u16(bits[2], bits[3]));
        });
    }
    #[inline(always)]
    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        quarters!(vaddq_f32, a, b)
    }
    #[inline(always)]
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        quarters!(vmulq_f32, a, b)
    }
    #[inline(always)]
    fn div(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        quarters!(vdivq_f32, a, b)
    }
    #[inline(always)]
    fn fma(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        quarters!(vfmaq_f32, c, a, b)
    }
    /// By comparison: `fmax` knows which zero is greater, the other instruction sets don't.
    #[inline(always)]
    fn max(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        let is_greater = quarters!(vcgtq_f32, a, b);
        quarters!(vbslq_f32, is_greater, a, b)
    }
    #[inline(always)]
    fn min(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        let is_smaller = quarters!(vcltq_f32, a, b);
        quarters!(vbslq_f32, is_smaller, a, b)
    }
    #[inline(always)]
    fn abs(self, a: Self::Floats) -> Self::Floats {
        quarters!(vabsq_f32, a)
    }
    #[inline(always)]
    fn round(self, a: Self::Floats) -> Self::Ints {
        quarters!(vcvtnq_s32_f32, a)
    }
    #[inline(always)]
    fn power_of_two(self, a: Self::Ints) -> Self::Floats {
        let offset = self.splat_int(127);
        let biased = quarters!(vaddq_s32, a, offset);
        let bits = quarters!(vshlq_n_s32::<23>, biased);
        quarters!(vreinterpretq_f32_s32, bits)
    }
    #[inline(always)]
    fn splat_int(self, value: i32) -> Self::Ints {
        [neon!(vdupq_n_s32(value)); 4]
    }
    #[inline(always)]
    fn to_floats(self, a: Self::Ints) -> Self::Floats {
        quarters!(vcvtq_f32_s32, a)
    }
    #[inline(always)]
    fn store_quants(self, values: Self::Ints, out: &mut [i8; LANES]) {
        let words = quarters!(vqmovn_s32, values);
        neon!({
            let low = vqmovn_s16(vcombine_s16(words[0], words[1]));
            let high = vqmovn_s16(vcombine_s16(words[2], words[3]));
            vst1q_s8(out.as_mut_ptr(), vcombine_s8(low, high));
        });
    }
    #[inline(always)]
    fn sum_ints(self, a: Self::Ints, b: Self::Ints) -> i32 {
        let sums = quarters!(vaddq_s32, a, b);
        neon!(vaddvq_s32(vaddq_s32(vaddq_s32(sums[0], sums[1]), vaddq_s32(sums[2], sums[3]))))
    }
    /// The order of [`Lanes::reduce`], in registers.
    #[inline(always)]
    fn sum(self, a: Self::Floats) -> f32 {
        neon!({
            let four = vaddq_f32(vaddq_f32(a[0], a[2]), vaddq_f32(a[1], a[3]));
            vpadds_f32(vadd_f32(vget_low_f32(four), vget_high_f32(four)))
        })
    }
    #[inline(always)]
    fn load_bytes(self, values: &ByteGroups) -> Self::Bytes {
        let start = values.as_ptr();
        neon!([vld1q_u8(start), vld1q_u8(start.add(16)), vld1q_u8(start.add(32)), vld1q_u8(start.add(48))])
    }
    #[inline(always)]
    fn low_nibbles(self, a: Self::Bytes) -> Self::Bytes {
        let mask = [neon!(vdupq_n_u8(15)); 4];
        quarters!(vandq_u8, a, mask)
    }
    #[inline(always)]
    fn high_nibbles(self, a: Self::Bytes) -> Self::Bytes {
        quarters!(vshrq_n_u8::<4>, a)
    }
    #[inline(always)]
    fn look_up(self, table: &[u8; 16], a: Self::Bytes) -> Self::Bytes {
        let table = [neon!(vld1q_u8(table.as_ptr())); 4];
        quarters!(vqtbl1q_u8, table, a)
    }
    /// A shift to the left by a negative count goes to the right.
    #[inline(always)]
    fn or_bits(self, low: Self::Bytes, bits: Self::Bytes, shift: i32, mask: u8) -> Self::Bytes {
        let (count, mask) = ([neon!(vdupq_n_s8(-shift as i8)); 4], [neon!(vdupq_n_u8(mask)); 4]);
        let shifted = quarters!(vshlq_u8, bits, count);
        let masked = quarters!(vandq_u8, shifted, mask);
        quarters!(vorrq_u8, low, masked)
    }
    #[inline(always)]
    fn dot_u6(self, sum: Self::Ints, weights: Self::Bytes, activations: &[i8; 4]) -> Self::Ints {
        let group = [self.group(activations); 4];
        quarters!(D::dot_u6, sum, weights, group)
    }
    #[inline(always)]
    fn dot_i8(self, sum: Self::Ints, weights: Self::Bytes, activations: &[i8; 4]) -> Self::Ints {
        let group = [self.group(activations); 4];
        quarters!(D::dot_i8, sum, weights, group)
    }
}
