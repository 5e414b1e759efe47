//! How busy an engine is, and what it has done so far.

/// How busy the engine is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Sequences that hold blocks.
    pub num_running: usize,
    /// Sequences that wait for some.
    pub num_waiting: usize,
    /// Blocks that sequences hold, over all cache groups; what is only cached does not count.
    pub blocks_used: usize,
    /// Blocks in all.
    pub blocks_total: usize,
    /// Since the engine began.
    pub counters: Counters,
}

/// What an engine has done since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Tokens of prompts that were looked up in the prefix cache.
    pub prefix_cache_queries: u64,
    /// Of these, the tokens that were found.
    pub prefix_cache_hits: u64,
    /// Cached blocks, and states, that made room for others.
    pub evictions: u64,
    /// Sequences that lost their blocks and were computed again.
    pub preemptions: u64,
    /// Tokens that were guessed ahead.
    pub draft_tokens: u64,
    /// Of these, the ones that were right.
    pub accepted_tokens: u64,
}
