//! Which tokens a grammar allows next.

use std::sync::Arc;

use crate::TokenId;

/// A set of tokens, one bit each; clones share it. Tokens beyond its bits are not in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenMask {
    /// Token `32 * word + bit` is allowed where the bit is set, lowest bit first.
    words: Arc<[u32]>,
}

impl TokenMask {
    /// A set from its bits: token `t` is allowed if bit `t % 32` of word `t / 32` is set.
    pub fn new(words: impl Into<Arc<[u32]>>) -> Self {
        Self { words: words.into() }
    }

    /// Whether it allows a token.
    pub fn allows(&self, token: TokenId) -> bool {
        self.words.get(token as usize / 32).is_some_and(|word| word & (1 << (token % 32)) != 0)
    }

    /// Makes everything that is not allowed impossible: its logit becomes negative infinity.
    pub fn apply(&self, logits: &mut [f32]) {
        let words = self.words.iter().copied().chain(std::iter::repeat(0));
        for (chunk, word) in logits.chunks_mut(32).zip(words) {
            if word == u32::MAX {
                continue;
            }
            for (bit, logit) in chunk.iter_mut().enumerate() {
                if word & (1 << bit) == 0 {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_without_a_bit_become_impossible() {
        let mask = TokenMask::new(vec![u32::MAX, 0b101]);
        let mut logits = vec![1.0; 100];
        mask.apply(&mut logits);
        for (token, logit) in (0..).zip(&logits) {
            assert_eq!(mask.allows(token), token <= 32 || token == 34, "{token}");
            assert_eq!(mask.allows(token), logit.is_finite(), "{token}");
        }
        assert!(!mask.allows(u32::MAX));
    }
}
