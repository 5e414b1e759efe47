//! One completion on its way: its tokens, how many are computed, and the blocks that hold them.

use std::sync::Arc;

use crate::cache_groups::{CacheGroups, GroupKind, Prefix};
use crate::draft::{Drafter, Speculation};
use crate::scheduler::{Candidate, TableUse};
use crate::token_counts::TokenCounts;
use crate::{Block, BlockHash, BlockTable, FinishReason, Request, SequenceId, TokenId};

/// Order of scheduling: earlier due first, then earlier arrival, then lower index.
pub(crate) type Rank = (i64, u64, u32);

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
    /// Per cache group.
    pub(crate) tables: Vec<BlockTable>,
    /// Kept only where penalties need it.
    pub(crate) counts: Option<TokenCounts>,
    /// Of the full blocks of `tokens`, as far as they were needed; unused if it has no part in the prefix cache.
    pub(crate) hashes: Vec<BlockHash>,
    /// Leading blocks that are registered in the prefix cache, or were found there.
    pub(crate) num_registered: usize,
    /// Tokens found in the prefix cache when it started; `None` until then.
    pub(crate) cached_tokens: Option<usize>,
    /// Tokens that it computes in the step that is planned, drafts not counted.
    pub(crate) share: usize,
    /// Guesses that ride along in the step that is planned.
    pub(crate) draft: Vec<TokenId>,
    /// Slots of states that are restored, then of those that are kept, in the step that is planned.
    pub(crate) restored: Vec<(usize, Block)>,
    pub(crate) kept: Vec<(usize, Block)>,
    pub(crate) drafter: Option<Drafter>,
}

impl Sequence {
    pub(crate) fn new(
        request: &Arc<Request>,
        rank: Rank,
        max_context: usize,
        speculation: Option<Speculation>,
    ) -> Self {
        let index = rank.2;
        Self {
            id: SequenceId { request: request.id, index },
            rank,
            request: Arc::clone(request),
            max_tokens: request.max_tokens.min(max_context - request.prompt.len()),
            tokens: request.prompt.to_vec(),
            num_computed: 0,
            tables: Vec::new(),
            counts: request.sampling.has_penalties().then(|| TokenCounts::new(&request.prompt)),
            hashes: Vec::new(),
            num_registered: 0,
            cached_tokens: None,
            share: 0,
            draft: Vec::new(),
            restored: Vec::new(),
            kept: Vec::new(),
            // Penalties change with each token, so guesses are rarely right.
            drafter: speculation.filter(|_| request.speculate && !request.sampling.has_penalties()).map(Drafter::new),
        }
    }

    pub(crate) fn num_generated(&self) -> usize {
        self.tokens.len() - self.request.prompt.len()
    }

    /// In figures. `until` is how far the next step may compute.
    pub(crate) fn candidate(&self, until: usize) -> Candidate {
        let tables = self.tables.iter().map(|table| TableUse { len: table.len(), num_live: table.num_live() });
        Candidate { num_tokens: self.tokens.len(), num_computed: self.num_computed, until, tables: tables.collect() }
    }

    /// Begins with what the cache has of it.
    pub(crate) fn take(&mut self, prefix: Prefix, groups: &CacheGroups) {
        self.num_computed = prefix.num_blocks * groups.geometry.block_size;
        self.num_registered = prefix.num_blocks;
        self.tables = prefix.tables;
        self.tables.resize_with(groups.kinds.len(), BlockTable::default);
        self.restored = prefix.snapshots;
    }

    /// Takes the blocks for `num_tokens` more.
    pub(crate) fn grow(&mut self, groups: &CacheGroups, num_tokens: usize) {
        for ((_, kind, pool), table) in groups.iter().zip(&mut self.tables) {
            table.grow(pool, groups.geometry.table_len(kind, self.num_computed + num_tokens));
        }
    }

    /// Gives all blocks back; the tokens stay and are computed again later.
    pub(crate) fn release(&mut self) {
        self.num_computed = 0;
        self.num_registered = 0;
        self.tables.clear();
        self.restored.clear();
    }

    /// Gives back blocks that no later token can see.
    pub(crate) fn release_out_of_sight(&mut self, groups: &CacheGroups) {
        for ((_, kind, _), table) in groups.iter().zip(&mut self.tables) {
            table.release_first(groups.geometry.num_out_of_sight(kind, self.num_computed));
        }
    }

    /// Hashes of the full blocks among the first `num_tokens` tokens.
    pub(crate) fn hashes(&mut self, num_tokens: usize, block_size: usize) -> &[BlockHash] {
        let num_blocks = num_tokens / block_size;
        let Some(scope) = &self.request.prefix_cache else { return &[] };
        for block in self.tokens.chunks_exact(block_size).take(num_blocks).skip(self.hashes.len()) {
            let parent = self.hashes.last().copied().unwrap_or_else(|| BlockHash::root(scope));
            self.hashes.push(parent.next(block));
        }
        &self.hashes[..num_blocks]
    }

    /// Makes blocks findable whose tokens are all computed; to be called when no step is in flight.
    pub(crate) fn register(&mut self, groups: &CacheGroups) {
        let (computed, block_size) = (self.num_computed, groups.geometry.block_size);
        let num_full = self.hashes(computed, block_size).len();
        for index in self.num_registered..num_full {
            for ((_, kind, pool), table) in groups.iter().zip(&self.tables) {
                // The slot of a recurrent group changes with each token: only copies of it are registered.
                if let Some(block) = table.get(index).filter(|_| kind != GroupKind::Recurrent) {
                    pool.register(block, self.hashes[index]);
                }
            }
        }
        self.num_registered = self.num_registered.max(num_full);
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
