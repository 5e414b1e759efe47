//! What the engine is asked to do.

use std::sync::Arc;

use crate::{CacheScope, RequestId, SamplingParams, TokenId};

/// One request: a prompt and how to go on from it.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Chosen by the caller; must not be in use.
    pub id: RequestId,
    /// At least one token.
    pub prompt: Arc<[TokenId]>,
    /// Completions of the same prompt, at least 1.
    pub num_sequences: u32,
    /// Tokens to generate per sequence, at least 1; clamped to what the context holds.
    pub max_tokens: usize,
    /// Tokens that end a sequence, beside the model's own.
    pub stop_token_ids: Vec<TokenId>,
    /// Go on past the model's own end-of-sequence tokens.
    pub ignore_eos: bool,
    /// Higher is scheduled first, within a priority whoever came first. Waiting counts: a request is overtaken only by
    /// those that arrive within [`EngineConfig::aging_steps`](crate::EngineConfig::aging_steps) steps after it for each
    /// level of priority that they have more. So nobody starves.
    pub priority: i32,
    /// Whom it shares cached prefixes with; `None` keeps it out of the prefix cache.
    pub prefix_cache: Option<CacheScope>,
    /// Whether its tokens may be guessed ahead, if the engine does that at all. It changes no output, but a sequence
    /// may then get several tokens, and want several rows of logits, in a step.
    pub speculate: bool,
    /// How to choose tokens.
    pub sampling: SamplingParams,
}

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// It reached a token that ends it, or the caller stopped it.
    Stop {
        /// The token, where one ended it.
        token_id: Option<TokenId>,
    },
    /// It reached `max_tokens` or the end of the context.
    Length,
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    /// Nothing to go on from.
    #[error("prompt is empty")]
    EmptyPrompt,
    /// No room for a single generated token.
    #[error("prompt has {prompt_tokens} tokens, the maximum context length is {max_context} tokens")]
    PromptTooLong {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Tokens that a sequence may have, the generated ones included.
        max_context: usize,
    },
    /// Nothing would be generated.
    #[error("{what} must be at least 1")]
    Zero {
        /// Which figure.
        what: &'static str,
    },
    /// Too many requests are there already.
    #[error("queue is full: {num_running} sequences are running, {num_waiting} are waiting, {max_waiting} may wait")]
    QueueFull {
        /// Sequences being computed.
        num_running: usize,
        /// Sequences waiting.
        num_waiting: usize,
        /// How many may wait.
        max_waiting: usize,
    },
    /// The id is in use.
    #[error("request id {0} is in use")]
    DuplicateId(RequestId),
}
