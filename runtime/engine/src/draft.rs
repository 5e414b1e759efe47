//! Drafts by prompt lookup: what followed the last few tokens when they stood in the sequence before.
//!
//! A draft costs rows of a step and changes no output: each token is still chosen from the model's own logits. How long
//! drafts are follows from how many were right.
//!
//! # Source
//! Saxena 2023, "Prompt Lookup Decoding"; the idea, not the code.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use crate::TokenId;

/// How to guess tokens ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Speculation {
    /// Draft tokens per step, over all sequences: more sequences get shorter drafts each, and many get none.
    pub max_draft_tokens: usize,
    /// Tokens that must agree with an earlier place, at least 1.
    pub min_match: usize,
}

/// Steps without drafts after failures in a row: doubled with each, up to this.
const LONGEST_PAUSE: u32 = 64;

/// Guesses the tokens of one sequence.
#[derive(Debug)]
pub(crate) struct Drafter {
    min_match: usize,
    max_len: usize,
    /// Hash of `min_match` tokens → where the latest of their places ends. Grows with the sequence.
    places: HashMap<u64, usize>,
    /// Places that end before this are known.
    next_end: usize,
    len: usize,
    pause: u32,
    failures: u32,
}

impl Drafter {
    pub(crate) fn new(speculation: Speculation) -> Self {
        let Speculation { max_draft_tokens: max_len, min_match } = speculation;
        Self { min_match, max_len, places: HashMap::new(), next_end: min_match, len: max_len, pause: 0, failures: 0 }
    }

    /// Tokens that may follow, at most `limit`; often none.
    pub(crate) fn draft(&mut self, tokens: &[TokenId], limit: usize) -> Vec<TokenId> {
        if self.pause > 0 {
            self.pause -= 1;
            return Vec::new();
        }
        // All places but the one at the very end, which is what is looked for.
        while self.next_end < tokens.len() {
            self.places.insert(key(&tokens[self.next_end - self.min_match..self.next_end]), self.next_end);
            self.next_end += 1;
        }
        let Some(start) = tokens.len().checked_sub(self.min_match) else { return Vec::new() };
        let last = &tokens[start..];
        let Some(place) = self.places.get(&key(last)).copied() else { return Vec::new() };
        if tokens[place - self.min_match..place] != *last {
            return Vec::new();
        }
        // What followed, and once that is at an end what was guessed: repetitions go on.
        let mut draft: Vec<TokenId> = Vec::new();
        for index in place..place + limit.min(self.len) {
            let token = tokens.get(index).copied().unwrap_or_else(|| draft[index - tokens.len()]);
            draft.push(token);
        }
        draft
    }

    /// Takes in how many of the drafted tokens were right.
    pub(crate) fn learn(&mut self, num_drafted: usize, num_accepted: usize) {
        if num_accepted == num_drafted {
            self.len = (self.len * 2).min(self.max_len);
        } else {
            self.len = (num_accepted + 1).min(self.max_len);
        }
        if num_accepted > 0 {
            self.failures = 0;
        } else {
            self.failures += 1;
            self.pause = 2_u32.saturating_pow(self.failures).min(LONGEST_PAUSE);
        }
    }
}

fn key(tokens: &[TokenId]) -> u64 {
    let mut hasher = DefaultHasher::new();
    tokens.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drafter() -> Drafter {
        Drafter::new(Speculation { max_draft_tokens: 4, min_match: 2 })
    }

    #[test]
    fn the_latest_place_of_the_last_tokens_says_what_follows() {
        let mut drafter = drafter();
        assert_eq!(drafter.draft(&[1, 2, 3, 1, 2, 4, 5, 6, 7, 8, 1, 2], 10), [4, 5, 6, 7]);
        assert_eq!(drafter.draft(&[1, 2, 3, 1, 2, 4, 5, 6, 7, 8, 1, 2, 4], 2), [5, 6]);
        assert!(drafter.draft(&[1, 2, 3, 1, 2, 4, 5, 6, 7, 8, 1, 2, 4, 9], 10).is_empty());
        assert!(self::drafter().draft(&[1], 10).is_empty());
        assert!(self::drafter().draft(&[1, 2], 10).is_empty());
    }

    #[test]
    fn a_repetition_goes_on_beyond_the_end() {
        assert_eq!(drafter().draft(&[9, 5, 5, 5], 4), [5; 4]);
        assert_eq!(drafter().draft(&[1, 2, 3, 1, 2], 4), [3, 1, 2, 3]);
    }

    #[test]
    fn wrong_drafts_make_the_next_ones_shorter_and_rarer() {
        let mut drafter = drafter();
        let tokens = [1, 2, 3, 1, 2];
        drafter.learn(4, 1);
        assert_eq!(drafter.draft(&tokens, 4).len(), 2);
        drafter.learn(2, 2);
        assert_eq!(drafter.draft(&tokens, 4).len(), 4);
        drafter.learn(4, 0);
        let lens: Vec<usize> = (0..3).map(|_| drafter.draft(&tokens, 4).len()).collect();
        assert_eq!(lens, [0, 0, 1]);
        drafter.learn(1, 0);
        assert_eq!((0..4).map(|_| drafter.draft(&tokens, 4).len()).sum::<usize>(), 0);
    }
}
