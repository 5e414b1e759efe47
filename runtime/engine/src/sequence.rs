//! One completion on its way: its tokens, how many are computed, and the blocks that hold them.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::scheduler::Candidate;
use crate::token_counts::TokenCounts;
use crate::{Block, BlockId, BlockPool, FinishReason, Request, SequenceId, TokenId};

/// Order of scheduling: higher priority first, then earlier arrival, then lower index.
pub(crate) type Rank = (Reverse<i32>, u64, u32);

#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) id: SequenceId,
    pub(crate) rank: Rank,
    pub(crate) request: Arc<Request>,
    /// The request's, clamped to the context.
    pub(crate) max_tokens: usize,
    /// Prompt and generated tokens.
    pub(crate) tokens: Vec<TokenId>,
    /// Leading tokens whose keys and values are in the cache.
    pub(crate) num_computed: usize,
    /// Per cache group, in order of position; all of the same length.
    block_tables: Vec<Vec<Block>>,
    /// Kept only where penalties need it.
    pub(crate) counts: Option<TokenCounts>,
}

impl Sequence {
    pub(crate) fn new(request: &Arc<Request>, index: u32, arrival: u64, max_context: usize, groups: usize) -> Self {
        Self {
            id: SequenceId { request: request.id, index },
            rank: (Reverse(request.priority), arrival, index),
            request: Arc::clone(request),
            max_tokens: request.max_tokens.min(max_context - request.prompt.len()),
            tokens: request.prompt.to_vec(),
            num_computed: 0,
            block_tables: (0..groups).map(|_| Vec::new()).collect(),
            counts: request.sampling.has_penalties().then(|| TokenCounts::new(&request.prompt)),
        }
    }

    pub(crate) fn num_generated(&self) -> usize {
        self.tokens.len() - self.request.prompt.len()
    }

    pub(crate) fn candidate(&self) -> Candidate {
        Candidate {
            num_tokens: self.tokens.len(),
            num_computed: self.num_computed,
            num_blocks: self.block_tables.first().map_or(0, Vec::len),
        }
    }

    /// Takes `count` blocks more from each pool.
    pub(crate) fn grow(&mut self, pools: &[BlockPool], count: usize) {
        for (table, pool) in self.block_tables.iter_mut().zip(pools) {
            for _ in 0..count {
                table.push(pool.allocate().expect("the scheduler should give away free blocks only"));
            }
        }
    }

    /// Gives all blocks back; the tokens stay and are computed again later.
    pub(crate) fn preempt(&mut self) {
        self.num_computed = 0;
        self.block_tables.iter_mut().for_each(Vec::clear);
    }

    pub(crate) fn block_ids(&self) -> Vec<Vec<BlockId>> {
        self.block_tables.iter().map(|table| table.iter().map(Block::id).collect()).collect()
    }

    /// Appends a generated token and says whether it ends the sequence.
    pub(crate) fn append(&mut self, token: TokenId, eos_token_ids: &[TokenId]) -> Option<FinishReason> {
        self.tokens.push(token);
        if let Some(counts) = &mut self.counts {
            counts.add_generated(token);
        }
        let ends = (!self.request.ignore_eos && eos_token_ids.contains(&token))
            || self.request.stop_token_ids.contains(&token);
        if ends {
            return Some(FinishReason::Stop { token_id: Some(token) });
        }
        (self.num_generated() >= self.max_tokens).then_some(FinishReason::Length)
    }
}
