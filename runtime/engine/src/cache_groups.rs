//! The cache groups of a model: what each keeps of a sequence, and which prefixes can be taken up again from all.

use crate::{Block, BlockHash, BlockPool, BlockTable};

/// What a group keeps of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GroupKind {
    /// Keys and values of all tokens.
    Full,
    /// Keys and values that the next token can see: those of the last `window` tokens.
    Window {
        /// How far back a token sees.
        window: usize,
    },
    /// One state of fixed size, in one slot.
    Recurrent,
}

/// One cache group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupConfig {
    /// What it keeps.
    pub kind: GroupKind,
    /// Its blocks, or slots: one per running sequence, and what is left over keeps snapshots.
    pub num_blocks: u32,
}

/// Sizes that decide how many blocks a sequence needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Tokens per block.
    pub block_size: usize,
    /// Tokens per step.
    pub max_batched_tokens: usize,
}

impl Geometry {
    /// Entries of a block table for so many tokens.
    pub fn table_len(self, kind: GroupKind, num_tokens: usize) -> usize {
        match kind {
            GroupKind::Full | GroupKind::Window { .. } => num_tokens.div_ceil(self.block_size),
            GroupKind::Recurrent => 1,
        }
    }

    /// Blocks that a sequence of so many tokens may hold at a time, at most.
    pub fn most_blocks(self, kind: GroupKind, num_tokens: usize) -> usize {
        let all = self.table_len(kind, num_tokens);
        match kind {
            GroupKind::Full | GroupKind::Recurrent => all,
            GroupKind::Window { window } => all.min(self.window_blocks(window)),
        }
    }

    /// Blocks of a window and the longest step after it, wherever they begin within a block.
    pub fn window_blocks(self, window: usize) -> usize {
        window.saturating_add(self.max_batched_tokens).div_ceil(self.block_size) + 1
    }

    /// Leading blocks that no token from `num_computed` on can see.
    pub fn num_out_of_sight(self, kind: GroupKind, num_computed: usize) -> usize {
        match kind {
            GroupKind::Full | GroupKind::Recurrent => 0,
            GroupKind::Window { window } => num_computed.saturating_sub(window) / self.block_size,
        }
    }
}

/// All groups of one engine, with their blocks.
#[derive(Debug)]
pub struct CacheGroups {
    pub(crate) geometry: Geometry,
    pub(crate) kinds: Vec<GroupKind>,
    pub(crate) pools: Vec<BlockPool>,
}

/// A cached prefix, taken.
#[derive(Debug, Default)]
pub(crate) struct Prefix {
    /// Full blocks of the sequence that need not be computed.
    pub(crate) num_blocks: usize,
    /// Per group, the blocks that it brings; empty for a recurrent group.
    pub(crate) tables: Vec<BlockTable>,
    /// Group and slot of the states to begin with; held so that nobody overwrites them before they are copied.
    pub(crate) snapshots: Vec<(usize, Block)>,
}

impl CacheGroups {
    pub(crate) fn new(groups: &[GroupConfig], geometry: Geometry) -> Self {
        let kinds = groups.iter().map(|group| group.kind).collect();
        let pools = groups.iter().map(|group| BlockPool::new(group.num_blocks)).collect();
        Self { geometry, kinds, pools }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, GroupKind, &BlockPool)> {
        self.kinds.iter().zip(&self.pools).enumerate().map(|(index, (kind, pool))| (index, *kind, pool))
    }

    pub(crate) fn recurrent(&self) -> impl Iterator<Item = (usize, &BlockPool)> {
        self.iter().filter(|(_, kind, _)| *kind == GroupKind::Recurrent).map(|(index, _, pool)| (index, pool))
    }

    pub(crate) fn has_recurrent(&self) -> bool {
        self.recurrent().next().is_some()
    }

    /// Whether the state after the block of this hash is kept in all recurrent groups.
    pub(crate) fn has_snapshot(&self, hash: &BlockHash) -> bool {
        self.recurrent().all(|(_, pool)| pool.contains(hash))
    }

    /// Takes the longest prefix that all groups still have, of the blocks with these hashes.
    pub(crate) fn take_prefix(&self, hashes: &[BlockHash]) -> Prefix {
        let num_blocks = self.longest_prefix(hashes);
        let mut prefix = Prefix { num_blocks, ..Prefix::default() };
        let Some(last) = num_blocks.checked_sub(1) else { return prefix };
        // One thread owns the engine: what was there a moment ago still is.
        let find = |pool: &BlockPool, index: usize| pool.find(&hashes[index]).expect("a cached block should stay");
        for (group, kind, pool) in self.iter() {
            let mut table = BlockTable::default();
            if kind == GroupKind::Recurrent {
                prefix.snapshots.push((group, find(pool, last)));
            } else {
                let num_hidden = self.geometry.num_out_of_sight(kind, num_blocks * self.geometry.block_size);
                (0..num_hidden).for_each(|_| table.push(None));
                (num_hidden..num_blocks).for_each(|index| table.push(Some(find(pool, index))));
            }
            prefix.tables.push(table);
        }
        prefix
    }

    /// Blocks of the longest prefix from which every group can go on: a full group needs all of its blocks, a window
    /// group the last ones, a recurrent group the state at its end.
    fn longest_prefix(&self, hashes: &[BlockHash]) -> usize {
        // A state is restored by copying it into another slot: there must be one.
        if self.recurrent().any(|(_, pool)| pool.num_free() < 2) {
            return 0;
        }
        let mut longest = 0;
        // Per group, how many blocks in a row, up to here, are cached.
        let mut runs = vec![0_usize; self.kinds.len()];
        for (index, hash) in hashes.iter().enumerate() {
            let num_blocks = index + 1;
            let mut is_whole = true;
            for (group, kind, pool) in self.iter() {
                let is_cached = pool.contains(hash);
                runs[group] = if is_cached { runs[group] + 1 } else { 0 };
                match kind {
                    GroupKind::Full if !is_cached => return longest,
                    GroupKind::Full => {}
                    GroupKind::Window { .. } => {
                        let hidden = self.geometry.num_out_of_sight(kind, num_blocks * self.geometry.block_size);
                        is_whole &= runs[group] >= num_blocks - hidden;
                    }
                    GroupKind::Recurrent => is_whole &= is_cached,
                }
            }
            if is_whole {
                longest = num_blocks;
            }
        }
        longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CacheScope, TokenId};

    const GEOMETRY: Geometry = Geometry { block_size: 4, max_batched_tokens: 16 };

    fn groups(kinds: &[GroupKind]) -> CacheGroups {
        let groups: Vec<GroupConfig> = kinds.iter().map(|kind| GroupConfig { kind: *kind, num_blocks: 20 }).collect();
        CacheGroups::new(&groups, GEOMETRY)
    }

    fn hashes(num_blocks: u32) -> Vec<BlockHash> {
        let tokens: Vec<TokenId> = (0..num_blocks * 4).collect();
        BlockHash::chain(&CacheScope::default(), &tokens, 4)
    }

    fn keep(pool: &BlockPool, hashes: &[BlockHash]) {
        hashes.iter().for_each(|hash| pool.register(&pool.allocate().unwrap(), *hash));
    }

    #[test]
    fn a_window_needs_few_blocks_however_long_the_sequence() {
        let window = GroupKind::Window { window: 8 };
        assert_eq!(GEOMETRY.most_blocks(window, 9), 3);
        assert_eq!(GEOMETRY.most_blocks(window, 10_000), 7);
        assert_eq!(GEOMETRY.most_blocks(GroupKind::Full, 10_000), 2500);
        assert_eq!(GEOMETRY.most_blocks(GroupKind::Recurrent, 10_000), 1);
        assert_eq!([7, 11, 12, 20].map(|computed| GEOMETRY.num_out_of_sight(window, computed)), [0, 0, 1, 3]);
    }

    #[test]
    fn a_full_group_needs_all_blocks_of_a_prefix() {
        let groups = groups(&[GroupKind::Full]);
        let hashes = hashes(4);
        keep(&groups.pools[0], &[hashes[0], hashes[1], hashes[3]]);
        let prefix = groups.take_prefix(&hashes);
        assert_eq!((prefix.num_blocks, prefix.tables[0].num_live()), (2, 2));
        assert_eq!(groups.pools[0].num_free(), 18);
        drop(prefix);
        assert_eq!(groups.pools[0].num_free(), 20);
    }

    #[test]
    fn a_window_group_needs_the_blocks_in_sight_only() {
        let groups = groups(&[GroupKind::Full, GroupKind::Window { window: 6 }]);
        let hashes = hashes(6);
        keep(&groups.pools[0], &hashes);
        // Six tokens before the end of block 5 begin in block 3; block 6 has no block before it in the window.
        keep(&groups.pools[1], &[hashes[3], hashes[4]]);
        let prefix = groups.take_prefix(&hashes);
        assert_eq!((prefix.num_blocks, prefix.tables[1].len(), prefix.tables[1].num_live()), (5, 5, 2));
    }

    #[test]
    fn a_recurrent_group_goes_on_where_a_state_was_kept() {
        let groups = groups(&[GroupKind::Full, GroupKind::Recurrent]);
        let hashes = hashes(6);
        keep(&groups.pools[0], &hashes);
        assert_eq!(groups.take_prefix(&hashes).num_blocks, 0);
        keep(&groups.pools[1], &[hashes[3]]);
        let prefix = groups.take_prefix(&hashes);
        assert_eq!((prefix.num_blocks, prefix.snapshots.len(), prefix.tables[1].len()), (4, 1, 0));
        assert!(groups.has_snapshot(&hashes[3]) && !groups.has_snapshot(&hashes[4]));
    }
}
