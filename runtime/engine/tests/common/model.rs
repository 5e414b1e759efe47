//! A model whose next token is a hash of all tokens before it, as found in the cache: a block that is shared, lost,
//! evicted or reused too early changes the output.

use std::collections::HashMap;

use kindling_engine::{BlockHash, BlockId, CacheScope, GroupKind, PlannedSequence, SlotCopy, StepPlan, TokenId};

use super::{VOCAB_SIZE, hash};

/// What a token leaves in the cache: it depends on all tokens up to it, as keys and values do.
#[derive(Clone, Default)]
struct Kept {
    prefix: Vec<TokenId>,
    digest: u64,
}

impl Kept {
    fn then(&self, token: TokenId) -> Self {
        let prefix: Vec<TokenId> = self.prefix.iter().copied().chain([token]).collect();
        let digest = hash(prefix.iter().map(|token| u64::from(*token)));
        Self { prefix, digest }
    }
}

/// Mostly the same token follows another, so that it can be guessed; when not, all that was read decides.
fn logits_after(last: TokenId, key: u64) -> impl Iterator<Item = f32> {
    let successor = u64::from(last) * 5 % 11;
    let is_usual = !key.is_multiple_of(5);
    (0..VOCAB_SIZE as u64).map(move |token| {
        let bonus = if is_usual && token == successor { 4.0 } else { 0.0 };
        (hash([key, token]) % 1000) as f32 / 250.0 + bonus
    })
}

pub struct ToyModel {
    kinds: Vec<GroupKind>,
    block_size: usize,
    /// By group, block and place within the block.
    cache: HashMap<(usize, BlockId, usize), Kept>,
    /// By group and slot.
    states: HashMap<(usize, BlockId), Kept>,
}

impl ToyModel {
    pub fn new(kinds: Vec<GroupKind>, block_size: usize) -> Self {
        Self { kinds, block_size, cache: HashMap::new(), states: HashMap::new() }
    }

    pub fn execute(&mut self, plan: &StepPlan) -> Vec<f32> {
        self.copy(&plan.copies_before);
        let mut logits = Vec::new();
        for sequence in &plan.sequences {
            let first_row = sequence.query.len() - sequence.num_logits();
            for (offset, token) in plan.token_ids[sequence.query.clone()].iter().enumerate() {
                self.write(sequence, sequence.context_len + offset, *token);
                if offset >= first_row {
                    let key = self.read(sequence, sequence.context_len + offset);
                    logits.extend(logits_after(*token, key));
                }
            }
        }
        self.copy(&plan.copies_after);
        logits
    }

    fn copy(&mut self, copies: &[SlotCopy]) {
        for copy in copies {
            let state = self.states[&(copy.group, copy.from)].clone();
            self.states.insert((copy.group, copy.to), state);
        }
    }

    fn at(&self, sequence: &PlannedSequence, group: usize, position: usize) -> (usize, BlockId, usize) {
        let block = sequence.block_tables[group][position / self.block_size];
        assert_ne!(block, BlockId::NULL, "{} needs position {position} of group {group}", sequence.id);
        (group, block, position % self.block_size)
    }

    fn write(&mut self, sequence: &PlannedSequence, position: usize, token: TokenId) {
        for (group, kind) in self.kinds.clone().into_iter().enumerate() {
            if kind == GroupKind::Recurrent {
                let slot = (group, sequence.block_tables[group][0]);
                let before = if position == 0 { Kept::default() } else { self.states[&slot].clone() };
                self.states.insert(slot, before.then(token));
            } else {
                let before =
                    position.checked_sub(1).map(|before| self.cache[&self.at(sequence, group, before)].clone());
                let kept = before.unwrap_or_default().then(token);
                self.cache.insert(self.at(sequence, group, position), kept);
            }
        }
    }

    fn read(&self, sequence: &PlannedSequence, position: usize) -> u64 {
        let digests = self.kinds.iter().enumerate().flat_map(|(group, kind)| {
            let first = match kind {
                GroupKind::Full => 0,
                GroupKind::Window { window } => (position + 1).saturating_sub(*window),
                GroupKind::Recurrent => position,
            };
            (first..=position).map(move |seen| match kind {
                GroupKind::Recurrent => self.states[&(group, sequence.block_tables[group][0])].digest,
                _ => self.cache[&self.at(sequence, group, seen)].digest,
            })
        });
        hash(digests)
    }

    /// Whether what the engine calls by this hash is what the model has there, in any of these scopes.
    pub fn has(&self, group: usize, found: BlockHash, block: BlockId, scopes: &[CacheScope]) -> bool {
        let kept = match self.kinds[group] {
            GroupKind::Recurrent => &self.states[&(group, block)],
            _ => &self.cache[&(group, block, self.block_size - 1)],
        };
        let is_whole = kept.prefix.len().is_multiple_of(self.block_size);
        let last = |scope| BlockHash::chain(scope, &kept.prefix, self.block_size).pop();
        is_whole && scopes.iter().any(|scope| last(scope) == Some(found))
    }
}
