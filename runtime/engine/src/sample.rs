//! Chooses a token from logits: a pure function of logits, parameters, tokens so far and position.
//!
//! Order: mask, logit bias, repetition penalty, presence and frequency penalties, temperature, min-p, top-k, top-p.
//! Log-probabilities are the model's own, before all of that. Equal logits go by the lower token id; logits that are
//! not numbers are never chosen.

mod scan;

use scan::{Weights, argmax, from_floor, greatest, maxima, nucleus, reached_by};

use crate::random::uniform;
use crate::{SamplingParams, TokenCounts, TokenId, TokenMask};

/// A chosen token.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// The token.
    pub token_id: TokenId,
    /// Its log-probabilities, if they were asked for.
    pub logprobs: Option<Logprobs>,
}

/// Natural logarithms of probabilities at one position.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    /// Of the chosen token.
    pub chosen: f32,
    /// Of the likeliest tokens, descending.
    pub top: Vec<(TokenId, f32)>,
}

/// Why no token was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    /// The model computed nonsense.
    #[error("none of the {vocab_size} logits is a number")]
    NoFiniteLogit {
        /// Logits that were given.
        vocab_size: usize,
    },
    /// The mask leaves nothing to choose from.
    #[error("the mask allows none of the {vocab_size} tokens whose logit is a number")]
    NoAllowedToken {
        /// Logits that were given.
        vocab_size: usize,
    },
}

/// Where in which stream of random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw {
    /// The sequence's seed.
    pub seed: u64,
    /// Generated tokens before this one.
    pub position: u64,
}

/// Chooses the next token, of those that the mask allows if there is one.
///
/// # Shapes
/// `logits`: `[vocab_size]`.
/// # Errors
/// [`SampleError`] if no logit is a number, or none of an allowed token.
pub fn sample(
    logits: &[f32],
    params: &SamplingParams,
    counts: Option<&TokenCounts>,
    mask: Option<&TokenMask>,
    draw: Draw,
) -> Result<Sampled, SampleError> {
    let adjusted = adjust(logits, params, counts, mask);
    let scores = adjusted.as_deref().unwrap_or(logits);
    let best = argmax(scores).ok_or_else(|| nothing_to_choose(logits))?;
    let token_id = if params.temperature > 0.0 { draw_token(scores, params, best, draw) } else { best };
    let logprobs = params.logprobs.map(|count| logprobs(logits, token_id, count));
    Ok(Sampled { token_id, logprobs })
}

fn nothing_to_choose(logits: &[f32]) -> SampleError {
    let vocab_size = logits.len();
    match argmax(logits) {
        Some(_) => SampleError::NoAllowedToken { vocab_size },
        None => SampleError::NoFiniteLogit { vocab_size },
    }
}

/// Logits with mask, bias and penalties, or `None` if there are none.
fn adjust(
    logits: &[f32],
    params: &SamplingParams,
    counts: Option<&TokenCounts>,
    mask: Option<&TokenMask>,
) -> Option<Vec<f32>> {
    let counts = counts.filter(|_| params.has_penalties());
    if params.logit_bias.is_empty() && counts.is_none() && mask.is_none() {
        return None;
    }
    let mut scores = logits.to_vec();
    if let Some(mask) = mask {
        mask.apply(&mut scores);
    }
    for (token, bias) in &params.logit_bias {
        if let Some(score) = scores.get_mut(*token as usize) {
            *score += bias;
        }
    }
    let Some(counts) = counts else { return Some(scores) };
    for token in counts.seen() {
        if let Some(score) = scores.get_mut(token as usize) {
            let penalty = params.repetition_penalty;
            *score = if *score > 0.0 { *score / penalty } else { *score * penalty };
        }
    }
    for (token, count) in counts.generated() {
        if let Some(score) = scores.get_mut(token as usize) {
            *score -= params.presence_penalty + params.frequency_penalty * bounded(count);
        }
    }
    Some(scores)
}

#[expect(clippy::cast_precision_loss, reason = "counts beyond 2^24 do not occur in a context")]
fn bounded(count: u32) -> f32 {
    count as f32
}

/// A token and its weight: `exp((logit - greatest) / temperature)`.
#[derive(Debug, Clone, Copy)]
struct Weighted {
    token: TokenId,
    score: f32,
    weight: f64,
}

fn draw_token(scores: &[f32], params: &SamplingParams, best: TokenId, draw: Draw) -> TokenId {
    let greatest = scores[best as usize];
    if greatest.is_infinite() {
        return best;
    }
    let number = uniform(draw.seed, draw.position);
    let Some(Shortlist { mut kept, total }) = shortlist(scores, params, greatest) else {
        let weights = Weights::new(scores, greatest, 1.0 / params.temperature);
        return weights.at(number * weights.total()).unwrap_or(best);
    };
    if let Some(top_k) = params.top_k {
        keep_likeliest(&mut kept, top_k);
    }
    if params.top_p < 1.0 {
        let total = total.unwrap_or_else(|| kept.iter().map(|item| item.weight).sum());
        keep_nucleus(&mut kept, f64::from(params.top_p) * total);
    }
    let total: f64 = kept.iter().map(|item| item.weight).sum();
    let target = number * total;
    let mut sum = 0.0;
    for item in &kept {
        sum += item.weight;
        if target < sum {
            return item.token;
        }
    }
    // Rounding may leave the sum a little short of the target.
    kept.last().map_or(best, |item| item.token)
}

/// The tokens that may be drawn, and some more.
struct Shortlist {
    kept: Vec<Weighted>,
    /// The weight of all tokens, where it counts and the list has not all of them.
    total: Option<f64>,
}

/// Nothing if every token may be drawn.
fn shortlist(scores: &[f32], params: &SamplingParams, greatest: f32) -> Option<Shortlist> {
    let temperature = f64::from(params.temperature);
    let min_p = f64::from(params.min_p);
    if params.top_k.is_none() && params.top_p >= 1.0 && min_p <= 0.0 {
        return None;
    }
    // The score of a token that has this weight, or a little less: what follows looks again.
    let score_of = |weight: f64| (f64::from(greatest) + temperature * weight.ln() - 1e-3 * temperature) as f32;
    let maxima = maxima(scores);
    let top_k = params.top_k.and_then(|top_k| reached_by(&maxima, top_k));
    let mut total = None;
    let is_nucleus = params.top_p < 1.0 && params.top_k.is_none() && min_p <= 0.0;
    let nucleus = is_nucleus.then(|| {
        let (all, floor) = nucleus(scores, greatest, 1.0 / params.temperature, f64::from(params.top_p));
        total = Some(all);
        floor
    });
    let min_p_floor = (min_p > 0.0).then(|| score_of(min_p));
    let floor = [top_k, nucleus, min_p_floor].into_iter().flatten().fold(f32::MIN, f32::max);
    let weighted = from_floor(scores, &maxima, floor).map(|(token, score)| {
        let weight = (f64::from(score - greatest) / temperature).exp();
        Weighted { token, score, weight }
    });
    Some(Shortlist { kept: weighted.filter(|item| item.weight > 0.0 && item.weight >= min_p).collect(), total })
}

fn by_likelihood(left: &Weighted, right: &Weighted) -> std::cmp::Ordering {
    right.score.total_cmp(&left.score).then(left.token.cmp(&right.token))
}

fn keep_likeliest(kept: &mut Vec<Weighted>, count: usize) {
    if count < kept.len() {
        kept.select_nth_unstable_by(count, by_likelihood);
        kept.truncate(count);
        // In the order of ids, as without a limit: the draw does not depend on how the selection shuffled.
        kept.sort_unstable_by_key(|item| item.token);
    }
}

/// Keeps the smallest set of the likeliest whose weight reaches `wanted`.
fn keep_nucleus(kept: &mut Vec<Weighted>, wanted: f64) {
    let mut sorted_len = 0;
    let mut sum = 0.0;
    // Sorts only as much of the head as is needed: usually some hundreds out of a hundred thousand.
    while sorted_len < kept.len() {
        let next_len = (sorted_len * 8).max(256).min(kept.len());
        let tail = &mut kept[sorted_len..];
        if next_len - sorted_len < tail.len() {
            tail.select_nth_unstable_by(next_len - sorted_len, by_likelihood);
        }
        tail[..next_len - sorted_len].sort_unstable_by(by_likelihood);
        for index in sorted_len..next_len {
            sum += kept[index].weight;
            if sum >= wanted {
                kept.truncate(index + 1);
                return;
            }
        }
        sorted_len = next_len;
    }
}

/// The model's log-probabilities: of one token, and of the `count` likeliest.
pub fn logprobs(logits: &[f32], chosen: TokenId, count: usize) -> Logprobs {
    let greatest = greatest(logits).min(f32::MAX);
    let log_sum = Weights::new(logits, greatest, 1.0).total().ln();
    let logprob = |logit: f32| (f64::from(logit.min(f32::MAX) - greatest) - log_sum) as f32;
    let mut top: Vec<Weighted> = Vec::new();
    if count > 0 {
        let maxima = maxima(logits);
        let floor = reached_by(&maxima, count).unwrap_or(f32::NEG_INFINITY);
        let all = from_floor(logits, &maxima, floor);
        top.extend(all.map(|(token, score)| Weighted { token, score, weight: 0.0 }));
        keep_likeliest(&mut top, count);
        top.sort_unstable_by(by_likelihood);
    }
    Logprobs {
        chosen: logits.get(chosen as usize).map_or(f32::NEG_INFINITY, |logit| logprob(*logit)),
        top: top.iter().map(|item| (item.token, logprob(item.score))).collect(),
    }
}

#[cfg(test)]
mod tests;
