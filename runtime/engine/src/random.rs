//! Random numbers without state: a hash of (seed, position).
//!
//! The number for a position does not depend on how many were drawn before it, so a preempted, batched or resumed
//! sequence draws the same ones.
//!
//! # Source
//! The mixing function is splitmix64: Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195.

const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Derives the seed of one of several sequences that share a request's seed.
pub fn sequence_seed(seed: u64, index: u32) -> u64 {
    if index == 0 { seed } else { mix(seed.wrapping_add(u64::from(index).wrapping_mul(GOLDEN_GAMMA))) }
}

/// A number in `[0, 1)` for one position of one seed.
#[expect(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
pub fn uniform(seed: u64, position: u64) -> f64 {
    let bits = mix(mix(seed.wrapping_add(GOLDEN_GAMMA)) ^ mix(position.wrapping_add(1).wrapping_mul(GOLDEN_GAMMA)));
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_uniform_over_positions_and_over_seeds() {
        for by_seed in [false, true] {
            let mut bins = [0_u32; 64];
            for i in 0..64_000_u64 {
                let number = if by_seed { uniform(i, 7) } else { uniform(7, i) };
                assert!((0.0..1.0).contains(&number));
                bins[(number * 64.0) as usize] += 1;
            }
            // 63 degrees of freedom: above 120 is less likely than one in 10^5.
            let chi_square: f64 = bins.iter().map(|count| (f64::from(*count) - 1000.0).powi(2) / 1000.0).sum();
            assert!(chi_square < 120.0, "by_seed={by_seed}: {chi_square}");
        }
    }

    #[test]
    fn sequences_of_a_request_draw_different_numbers() {
        assert_eq!(sequence_seed(5, 0), 5);
        assert!((uniform(sequence_seed(5, 1), 0) - uniform(sequence_seed(5, 2), 0)).abs() > 1e-9);
    }
}
