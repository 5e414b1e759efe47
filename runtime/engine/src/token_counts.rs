//! Which tokens a sequence has had so far, for penalties.

use std::collections::{HashMap, HashSet};

use crate::TokenId;

/// Tokens of a prompt, and how often each token was generated after it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenCounts {
    prompt: HashSet<TokenId>,
    generated: HashMap<TokenId, u32>,
}

impl TokenCounts {
    /// Nothing generated yet.
    pub fn new(prompt: &[TokenId]) -> Self {
        Self { prompt: prompt.iter().copied().collect(), generated: HashMap::new() }
    }

    /// Counts one generated token.
    pub fn add_generated(&mut self, token: TokenId) {
        *self.generated.entry(token).or_default() += 1;
    }

    /// Generated tokens with their counts, each once, in no order.
    pub fn generated(&self) -> impl Iterator<Item = (TokenId, u32)> + '_ {
        self.generated.iter().map(|(token, count)| (*token, *count))
    }

    /// Tokens of prompt and output, each once, in no order.
    pub fn seen(&self) -> impl Iterator<Item = TokenId> + '_ {
        let only_in_prompt = self.prompt.iter().filter(|token| !self.generated.contains_key(token));
        only_in_prompt.chain(self.generated.keys()).copied()
    }
}
