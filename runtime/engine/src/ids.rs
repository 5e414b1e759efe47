//! Names of things: requests, their sequences, KV blocks, tokens.

use std::fmt;

/// Index into the vocabulary. An alias, because whole slices of them cross the border to tokenizer and backend.
pub type TokenId = u32;

/// One request, as numbered by the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// One completion of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId {
    /// The request it belongs to.
    pub request: RequestId,
    /// Which of the request's completions, from 0.
    pub index: u32,
}

/// One KV block of a cache group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(pub u32);

impl BlockId {
    /// No block: stands in block tables for positions that no later token can see.
    pub const NULL: Self = Self(u32::MAX);
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for SequenceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.request, self.index)
    }
}
