//! Scores of a whole vocabulary, looked at in few plain passes that compilers turn into vector instructions. The same bits on
//! every machine: sums are made in a fixed order, and nothing is fused.

use crate::TokenId;

/// Scores that are looked at together.
const LANES: usize = 16;
/// Scores of a block, whose greatest says whether the block matters.
const BLOCK: usize = 64;
/// Scores whose weights are summed before the sum goes to f64.
const SUMMED: usize = 1024;
/// Weights below `exp` of this are nothing.
const LEAST: f32 = -87.0;

/// The first of the greatest numbers; infinity counts as the greatest.
pub(super) fn argmax(scores: &[f32]) -> Option<TokenId> {
    let greatest = greatest(scores);
    if greatest == f32::NEG_INFINITY {
        return None;
    }
    scores.iter().position(|score| *score == greatest).and_then(|index| TokenId::try_from(index).ok())
}

/// The greatest number; negative infinity if there is none.
pub(super) fn greatest(scores: &[f32]) -> f32 {
    let (chunks, rest) = scores.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (lane, score) in lanes.iter_mut().zip(chunk) {
            // False for what is no number.
            *lane = if *score > *lane { *score } else { *lane };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |all, score| if *score > all { *score } else { all })
}

/// The greatest of each block.
pub(super) fn maxima(scores: &[f32]) -> Vec<f32> {
    scores.chunks(BLOCK).map(greatest).collect()
}

/// A number that at least `count` scores reach, and as few more as the blocks tell; nothing if that is all of them.
pub(super) fn reached_by(maxima: &[f32], count: usize) -> Option<f32> {
    // Each of the `count` greatest maxima is such a score.
    if count == 0 || count >= maxima.len() {
        return None;
    }
    let mut sorted = maxima.to_vec();
    let (_, least, _) = sorted.select_nth_unstable_by(count - 1, |left, right| right.total_cmp(left));
    (*least > f32::NEG_INFINITY).then_some(*least)
}

/// Tokens whose score is at least `floor`, in the order of their ids.
pub(super) fn from_floor<'a>(
    scores: &'a [f32],
    maxima: &'a [f32],
    floor: f32,
) -> impl Iterator<Item = (TokenId, f32)> + 'a {
    let blocks = scores.chunks(BLOCK).zip(maxima).enumerate().filter(move |(_, (_, greatest))| **greatest >= floor);
    blocks.flat_map(move |(block, (scores, _))| {
        let first = (block * BLOCK) as TokenId;
        (first..).zip(scores.iter().copied()).filter(move |(_, score)| *score >= floor)
    })
}

/// Weights of all tokens, `exp((score - greatest) * inverse_temperature)`, as sums of blocks.
pub(super) struct Weights<'a> {
    scores: &'a [f32],
    greatest: f32,
    inverse_temperature: f32,
    sums: Vec<f64>,
}

impl<'a> Weights<'a> {
    /// `greatest` is finite.
    pub(super) fn new(scores: &'a [f32], greatest: f32, inverse_temperature: f32) -> Self {
        let sums = scores.chunks(SUMMED).map(|scores| f64::from(sum(scores, greatest, inverse_temperature))).collect();
        Self { scores, greatest, inverse_temperature, sums }
    }

    /// Of all tokens.
    pub(super) fn total(&self) -> f64 {
        self.sums.iter().sum()
    }

    /// The token at which the sum of weights, in the order of ids, exceeds `target`; the last that has any weight if rounding
    /// leaves the sum a little short of it.
    pub(super) fn at(&self, target: f64) -> Option<TokenId> {
        let weight_of = |score: &f32| weight(*score, self.greatest, self.inverse_temperature);
        let mut before = 0.0;
        for (block, (scores, block_sum)) in self.scores.chunks(SUMMED).zip(&self.sums).enumerate() {
            if target >= before + block_sum {
                before += block_sum;
                continue;
            }
            for (offset, score) in scores.iter().enumerate() {
                before += f64::from(weight_of(score));
                if target < before {
                    return TokenId::try_from(block * SUMMED + offset).ok();
                }
            }
        }
        let last = self.scores.iter().rposition(|score| weight_of(score) > 0.0);
        last.and_then(|index| TokenId::try_from(index).ok())
    }
}

/// Buckets of weights by their logarithm: a quarter each.
const BUCKETS: usize = 4 * 88;

/// The weight of all tokens, and a score that all tokens of the smallest set reach whose share of it is `share`, and not many
/// others: the next in a grid of a quarter of `1 / inverse_temperature`.
pub(super) fn nucleus(scores: &[f32], greatest: f32, inverse_temperature: f32, share: f64) -> (f64, f32) {
    let mut sums = [0f64; BUCKETS];
    for scores in scores.chunks(SUMMED) {
        // First what is done for all at once, then what finds its place.
        let (mut weights, mut buckets) = ([0f32; SUMMED], [0u32; SUMMED]);
        for ((score, weight_of), bucket) in scores.iter().zip(&mut weights).zip(&mut buckets) {
            *weight_of = weight(*score, greatest, inverse_temperature);
            // What is no number has no weight, and goes to the first.
            *bucket = ((greatest - score) * inverse_temperature * 4.0) as u32;
        }
        for (weight, bucket) in weights.iter().zip(&buckets).take(scores.len()) {
            sums[(*bucket as usize).min(BUCKETS - 1)] += f64::from(*weight);
        }
    }
    let total: f64 = sums.iter().sum();
    // A little more, for what rounding puts into the bucket beside its own.
    let wanted = total * share + total * 1e-5;
    let mut sum = 0.0;
    for (bucket, of_bucket) in (1u16..).zip(sums) {
        sum += of_bucket;
        if sum >= wanted {
            let below = (f32::from(bucket) + 0.01) / 4.0 / inverse_temperature;
            return (total, greatest - below);
        }
    }
    (total, f32::MIN)
}

fn sum(scores: &[f32], greatest: f32, inverse_temperature: f32) -> f32 {
    let (chunks, rest) = scores.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for chunk in chunks {
        for (lane, score) in lanes.iter_mut().zip(chunk) {
            *lane += weight(*score, greatest, inverse_temperature);
        }
    }
    let rest = rest.iter().map(|score| weight(*score, greatest, inverse_temperature));
    lanes.into_iter().chain(rest).sum()
}

/// `exp` of a number that is not positive, to about 2e-7 of it: a power of two, and a polynomial for what is left of the
/// exponent, at most a half. Nothing for what is no number.
#[inline]
fn weight(score: f32, greatest: f32, inverse_temperature: f32) -> f32 {
    /// Adding it rounds to a whole number, which is then in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    // `min` would make a number of what is none.
    let bounded = if score > f32::MAX { f32::MAX } else { score };
    let x = (bounded - greatest) * inverse_temperature;
    let is_something = x > LEAST;
    let x = if is_something { x } else { 0.0 };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let whole = shifted - ROUND;
    // In two parts, so that the product with a whole number is exact.
    let rest = (x - whole * 0.693_359_4) + whole * 2.121_944_4e-4;
    let mut power = 1.987_569_1e-4;
    for factor in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        power = power * rest + factor;
    }
    let power = power * rest * rest + rest + 1.0;
    let scale = f32::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
    if is_something { power * scale } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_exponentials() {
        let mut worst = 0.0f64;
        for step in 0..870_000u32 {
            let x = -(step as f32) * 1e-4;
            let (found, expected) = (f64::from(weight(x, 0.0, 1.0)), f64::from(x).exp());
            worst = worst.max((found - expected).abs() / expected);
        }
        assert!(worst < 3e-7, "{worst}");
        assert_eq!(weight(0.0, 0.0, 1.0), 1.0);
        assert_eq!([f32::NAN, f32::NEG_INFINITY, -100.0].map(|score| weight(score, 0.0, 1.0)), [0.0; 3]);
    }

    #[test]
    fn the_greatest_is_found_among_what_is_no_number() {
        for len in [1, 15, 16, 17, 64, 100] {
            for at in 0..len {
                let mut scores = vec![f32::NAN; len];
                scores[at] = -3.0;
                assert_eq!((argmax(&scores), greatest(&scores)), (Some(at as TokenId), -3.0));
            }
        }
        assert_eq!([argmax(&[]), argmax(&[f32::NAN]), argmax(&[f32::NEG_INFINITY; 20])], [None; 3]);
        assert_eq!(argmax(&[1.0, f32::INFINITY, f32::INFINITY]), Some(1));
    }

    #[test]
    fn a_floor_lets_as_many_through_as_were_asked_for() {
        let scores: Vec<f32> = (0..6400u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32).collect();
        let maxima = maxima(&scores);
        for count in [1, 5, 99] {
            let floor = reached_by(&maxima, count).unwrap();
            let found: Vec<_> = from_floor(&scores, &maxima, floor).collect();
            let expected = scores.iter().filter(|score| **score >= floor).count();
            assert!(found.len() >= count && found.len() == expected, "{} of {count}", found.len());
            assert!(found.iter().all(|(token, score)| scores[*token as usize] == *score));
        }
        assert_eq!(reached_by(&maxima, 100), None);
    }

    #[test]
    fn the_nucleus_is_above_its_floor() {
        for (spread, share) in [(1.0, 0.5), (1.0, 0.95), (8.0, 0.9), (0.0, 0.5), (0.01, 0.999)] {
            let random = |i: u32| ((i.wrapping_mul(2_654_435_761) >> 8) as f32 + 1.0) / (1u32 << 24) as f32;
            let scores: Vec<f32> = (0..5000).map(|i| spread * random(i).ln()).collect();
            let greatest = greatest(&scores);
            let (total, floor) = nucleus(&scores, greatest, 1.0 / 0.7, share);
            let mut exact: Vec<(f64, f32)> =
                scores.iter().map(|score| ((f64::from(score - greatest) / 0.7).exp(), *score)).collect();
            let sum: f64 = exact.iter().map(|(weight, _)| weight).sum();
            assert!((total / sum - 1.0).abs() < 1e-6, "{total} for {sum}");
            exact.sort_by(|left, right| right.0.total_cmp(&left.0));
            let mut reached = 0.0;
            for (weight, score) in exact {
                assert!(score >= floor, "{spread} {share}: {score} is below {floor}");
                reached += weight;
                if reached >= share * sum {
                    break;
                }
            }
        }
    }

    #[test]
    fn a_target_finds_the_token_in_whose_share_it_is() {
        let scores: Vec<f32> = (0..3000).map(|i| -((i % 7) as f32)).collect();
        let weights = Weights::new(&scores, 0.0, 1.0);
        let exact: Vec<f64> = scores.iter().map(|score| f64::from(*score).exp()).collect();
        assert!((weights.total() / exact.iter().sum::<f64>() - 1.0).abs() < 1e-6);
        let mut sum = 0.0;
        for (token, weight) in (0..).zip(&exact) {
            assert_eq!(weights.at(sum + weight / 2.0), Some(token));
            sum += weight;
        }
        assert_eq!(weights.at(sum * 1.001), Some(2999));
    }
}
