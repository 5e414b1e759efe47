//! Sixteen lanes of f32 or i32, and sixteen groups of four bytes: the vocabulary that kernels are written in.
//!
//! Every implementation rounds alike (multiplications and additions are fused where `fma` says so and nowhere else), and
//! sums over lanes have one order, so that instruction sets agree bit for bit.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;
pub(super) mod portable;

/// Lanes in a vector.
pub(super) const LANES: usize = 16;

/// Sixteen groups of four bytes.
pub(super) type ByteGroups = [u8; 64];

/// One instruction set's vectors. The value is a witness that the machine has it.
pub(super) trait Lanes: Copy {
    /// Sixteen f32.
    type Floats: Copy;
    /// Sixteen i32.
    type Ints: Copy;
    /// Sixteen groups of four bytes.
    type Bytes: Copy;
    /// What `dot_i8` adds to every weight byte, and its caller must take off again: 128 or 0.
    const DOT_I8_BIAS: i32;

    /// The same value everywhere.
    fn splat(self, value: f32) -> Self::Floats;
    /// Reads sixteen f32.
    fn load(self, values: &[f32; LANES]) -> Self::Floats;
    /// Reads sixteen f16.
    fn load_f16(self, values: &[u16; LANES]) -> Self::Floats;
    /// Reads sixteen bf16.
    fn load_bf16(self, values: &[u16; LANES]) -> Self::Floats;
    /// Reads sixteen E4M3 as 256ths of their values, all of them exact; 2^8 is the difference of the exponents' biases of
    /// E4M3 and f16. What would be NaN counts as 480 on the way there: files with NaN in them are not worth a check here.
    fn load_e4m3_256ths(self, codes: &[u8; LANES]) -> Self::Floats;
    /// Reads sixteen E8M0: `2^(code - 127)`, exact; 255 becomes infinity.
    fn load_e8m0(self, codes: &[u8; LANES]) -> Self::Floats;
    /// Reads sixteen i8.
    fn load_i8(self, values: &[i8; LANES]) -> Self::Floats;
    /// Writes sixteen f32.
    fn store(self, values: Self::Floats, out: &mut [f32; LANES]);
    /// Writes sixteen f16, rounded to nearest even.
    fn store_f16(self, values: Self::Floats, out: &mut [u16; LANES]);
    /// `a + b`.
    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a * b`.
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a / b`.
    fn div(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// The greater; neither is NaN.
    fn max(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// The smaller; neither is NaN.
    fn min(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `|a|`.
    fn abs(self, a: Self::Floats) -> Self::Floats;
    /// To the nearest integer, ties to even; in the range of i32.
    fn round(self, a: Self::Floats) -> Self::Ints;
    /// `2^a` for `a` in -126 to 127.
    fn power_of_two(self, a: Self::Ints) -> Self::Floats;

    /// The same value everywhere.
    fn splat_int(self, value: i32) -> Self::Ints;
    /// Exact for what dots of 32 bytes can give.
    fn to_floats(self, a: Self::Ints) -> Self::Floats;
    /// Writes sixteen i32 as i8, saturated.
    fn store_quants(self, values: Self::Ints, out: &mut [i8; LANES]);
    /// The sum over lanes of both.
    fn sum_ints(self, a: Self::Ints, b: Self::Ints) -> i32;

    /// Asks for `value`'s cache lines `ahead` bytes behind it, where there may be nothing: a stream of weights comes
    /// faster than the machine's own guesses, which end with a page. Changes no result; may do nothing.
    #[inline(always)]
    fn prefetch<T>(self, _value: &T, _ahead: usize) {}
    /// Reads sixteen groups of four bytes.
    fn load_bytes(self, values: &ByteGroups) -> Self::Bytes;
    /// The low nibble of each byte.
    fn low_nibbles(self, a: Self::Bytes) -> Self::Bytes;
    /// The high nibble of each byte.
    fn high_nibbles(self, a: Self::Bytes) -> Self::Bytes;
    /// `table[a]` for each byte, which is at most 15.
    fn look_up(self, table: &[u8; 16], a: Self::Bytes) -> Self::Bytes;
    /// `low | ((bits >> shift) & mask)` for each byte; `shift` is -7 to 7, negative ones shift to the left, and `mask` has
    /// no bit that comes from outside of the byte.
    fn or_bits(self, low: Self::Bytes, bits: Self::Bytes, shift: i32, mask: u8) -> Self::Bytes;
    /// `sum[lane] += w . x` over four small weights (0 to 63) and four activations (-127 to 127), the same in each lane.
    fn dot_u6(self, sum: Self::Ints, weights: Self::Bytes, activations: &[i8; 4]) -> Self::Ints;
    /// `sum[lane] += (w - 128 + DOT_I8_BIAS) . x` over four bytes and four activations (-127 to 127).
    fn dot_i8(self, sum: Self::Ints, weights: Self::Bytes, activations: &[i8; 4]) -> Self::Ints;

    /// The sum over lanes: halves are added to each other until one lane is left.
    #[inline(always)]
    fn sum(self, a: Self::Floats) -> f32 {
        self.reduce(a, |a, b| a + b)
    }

    /// The greatest lane.
    #[inline(always)]
    fn highest(self, a: Self::Floats) -> f32 {
        self.reduce(a, |a, b| if a > b { a } else { b })
    }

    /// Combines halves until one lane is left.
    #[inline(always)]
    fn reduce(self, a: Self::Floats, combine: impl Fn(f32, f32) -> f32) -> f32 {
        let mut values = [0.0; LANES];
        self.store(a, &mut values);
        let mut half = LANES / 2;
        while half > 0 {
            for lane in 0..half {
                values[lane] = combine(values[lane], values[lane + half]);
            }
            half /= 2;
        }
        values[0]
    }

    /// `e^a`, within 2 units in the last place; clamped so that results stay normal numbers.
    #[inline(always)]
    fn exp(self, a: Self::Floats) -> Self::Floats {
        let a = self.max(self.min(a, self.splat(88.0)), self.splat(-87.0));
        let power = self.round(self.mul(a, self.splat(std::f32::consts::LOG2_E)));
        let n = self.to_floats(power);
        // ln 2 in two parts, the first with trailing zeroes, so that n times it is exact.
        let rest = self.fma(n, self.splat(-0.693_359_4), a);
        let rest = self.fma(n, self.splat(2.121_944_4e-4), rest);
        let mut sum = self.splat(1.0 / 5040.0);
        for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
            sum = self.fma(sum, rest, self.splat(coefficient));
        }
        self.mul(sum, self.power_of_two(power))
    }
}

#[cfg(test)]
mod agreement;

#[cfg(test)]
mod tests {
    use super::super::isa::{DetectedIsa, Isa, Kernel};
    use super::{LANES, Lanes};

    struct Exponentials<'a>(&'a [f32; LANES], &'a mut [f32; LANES]);

    impl Kernel for Exponentials<'_> {
        fn run<L: Lanes>(self, lanes: L) {
            lanes.store(lanes.exp(lanes.load(self.0)), self.1);
        }
    }

    #[test]
    fn exp_is_accurate_and_the_same_on_every_instruction_set() {
        let mut worst: f64 = 0.0;
        for step in 0..1000 {
            let inputs: [f32; LANES] = std::array::from_fn(|lane| -87.0 + 0.0109 * (step * LANES + lane) as f32);
            let results: Vec<_> = Isa::available()
                .into_iter()
                .filter_map(DetectedIsa::new)
                .map(|isa| {
                    let mut out = [0.0; LANES];
                    isa.run(Exponentials(&inputs, &mut out));
                    out
                })
                .collect();
            for out in &results {
                assert_eq!(out, &results[0]);
            }
            for (x, y) in inputs.iter().zip(&results[0]) {
                let exact = f64::from(*x).exp();
                worst = worst.max((f64::from(*y) / exact - 1.0).abs());
            }
        }
        println!("worst relative error {worst:.2e}");
        // Measured 2026-11-22: 7.4e-8.
        assert!(worst < 2.5e-7);
    }
}
