//! How tokens are chosen, as data.

use crate::TokenId;

/// Sampling parameters of one request, already checked by the caller. The default is greedy.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy, else divides the logits.
    pub temperature: f32,
    /// Keeps the smallest set of tokens whose probabilities sum to at least this; (0, 1].
    pub top_p: f32,
    /// Keeps this many of the likeliest tokens; `None` keeps all.
    pub top_k: Option<usize>,
    /// Drops tokens less likely than this times the likeliest; [0, 1].
    pub min_p: f32,
    /// Subtracted from the logit of each generated token, once.
    pub presence_penalty: f32,
    /// Subtracted from the logit of each generated token, for each time it was generated.
    pub frequency_penalty: f32,
    /// Divides positive and multiplies negative logits of all tokens of prompt and output; 1 changes nothing.
    pub repetition_penalty: f32,
    /// Added to logits.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// Key of the random numbers; each sequence of a request has its own stream of them.
    pub seed: u64,
    /// Top log-probabilities wanted beside the chosen token's; `None` computes none at all.
    pub logprobs: Option<usize>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            top_k: None,
            min_p: 0.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: Vec::new(),
            seed: 0,
            logprobs: None,
        }
    }
}

impl SamplingParams {
    /// Whether logits depend on the tokens so far, beyond what the model does with them.
    #[expect(clippy::float_cmp, reason = "compares with the values that switch a penalty off")]
    pub fn has_penalties(&self) -> bool {
        self.presence_penalty != 0.0 || self.frequency_penalty != 0.0 || self.repetition_penalty != 1.0
    }
}
