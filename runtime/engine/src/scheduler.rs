//! Which sequences get how many tokens in the next step: pure functions.
//!
//! There are no prefill and decode phases. Each sequence has tokens and a count of those already computed; a step
//! brings the computed ones nearer to all of them. Running sequences come first, in order of rank; when blocks run
//! out, the sequence of the lowest rank gives its own back and is computed again later. Blocks may be shared, so how
//! many become free by that is known only afterwards: the caller asks again.

use crate::cache_groups::{Geometry, GroupKind};

/// What the scheduler needs to know of a sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Tokens of the sequence, generated ones included.
    pub num_tokens: usize,
    /// Of these, how many are in the cache. Less than `until`.
    pub num_computed: usize,
    /// How far this step may compute: all tokens, or up to where a state is to be kept.
    pub until: usize,
    /// What it holds, per cache group.
    pub tables: Vec<TableUse>,
}

/// A block table in figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableUse {
    /// Its entries.
    pub len: usize,
    /// Of these, how many hold a block.
    pub num_live: usize,
}

/// One cache group in figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupUse {
    /// What it keeps.
    pub kind: GroupKind,
    /// Blocks that nobody holds.
    pub num_free: usize,
}

/// The decision about those who run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Take the blocks of the last one, and ask again.
    PreemptLast,
    /// Tokens for each; 0 if it has to wait, with its blocks.
    Compute(Vec<usize>),
}

/// Shares the tokens of a step among the running sequences, which are in order of rank, highest first.
///
/// The highest-ranked one always gets at least one token, provided that it fits into all blocks alone; so every
/// sequence ends.
pub fn share(running: &[Candidate], groups: &[GroupUse], geometry: Geometry) -> Decision {
    let mut groups = groups.to_vec();
    let mut tokens = geometry.max_batched_tokens;
    let mut shares = Vec::with_capacity(running.len());
    for (index, candidate) in running.iter().enumerate() {
        // A long prompt leaves one token to each sequence after it: decoding goes on meanwhile.
        let ranked_lower = running.len() - index - 1;
        let remaining = candidate.until - candidate.num_computed;
        let wanted = remaining.min(tokens.saturating_sub(ranked_lower).max(1)).min(tokens);
        let fitting = wanted.min(room(candidate, &groups, geometry));
        if fitting < wanted && ranked_lower > 0 {
            return Decision::PreemptLast;
        }
        // The last in rank takes what there is.
        for (group, table) in groups.iter_mut().zip(&candidate.tables) {
            group.num_free -= missing(candidate, *table, group.kind, fitting, geometry);
        }
        tokens -= fitting;
        shares.push(fitting);
    }
    Decision::Compute(shares)
}

/// Tokens for a sequence that waits, if it may start: not while blocks for all its tokens and one more are wanting,
/// or spoken for by `running`. It would lose them again at once.
pub fn admit(
    candidate: &Candidate,
    tokens_left: usize,
    running: &[Candidate],
    groups: &[GroupUse],
    geometry: Geometry,
) -> Option<usize> {
    let wanting = |candidate: &Candidate, index: usize, num_tokens: usize| {
        let most = geometry.most_blocks(groups[index].kind, num_tokens);
        most.saturating_sub(candidate.tables[index].num_live)
    };
    let has_room = groups.iter().enumerate().all(|(index, group)| {
        let promised: usize = running.iter().map(|other| wanting(other, index, other.num_tokens)).sum();
        promised + wanting(candidate, index, candidate.num_tokens + 1) <= group.num_free
    });
    let num_tokens = (candidate.until - candidate.num_computed).min(tokens_left);
    (has_room && num_tokens > 0).then_some(num_tokens)
}

/// Blocks that a sequence lacks to compute `num_tokens` more.
fn missing(candidate: &Candidate, table: TableUse, kind: GroupKind, num_tokens: usize, geometry: Geometry) -> usize {
    if num_tokens == 0 {
        return 0;
    }
    geometry.table_len(kind, candidate.num_computed + num_tokens).saturating_sub(table.len)
}

/// Tokens that a sequence can compute with what it holds and what is free.
pub fn room(candidate: &Candidate, groups: &[GroupUse], geometry: Geometry) -> usize {
    let rooms = groups.iter().zip(&candidate.tables).map(|(group, table)| match group.kind {
        GroupKind::Recurrent if table.len + group.num_free > 0 => usize::MAX,
        GroupKind::Recurrent => 0,
        GroupKind::Full | GroupKind::Window { .. } => {
            ((table.len + group.num_free) * geometry.block_size).saturating_sub(candidate.num_computed)
        }
    });
    rooms.min().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
