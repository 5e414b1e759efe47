//! The blocks of one sequence in one cache group.

use crate::{Block, BlockId, BlockPool};

/// Blocks in order of position; `None` where a block was given back because no later token can see it.
#[derive(Debug, Default)]
pub struct BlockTable {
    entries: Vec<Option<Block>>,
    num_live: usize,
}

impl BlockTable {
    /// Entries, those given back included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Blocks held.
    pub fn num_live(&self) -> usize {
        self.num_live
    }

    /// Appends a block, or the place of one that is not needed.
    pub fn push(&mut self, block: Option<Block>) {
        self.num_live += usize::from(block.is_some());
        self.entries.push(block);
    }

    /// Takes blocks from the pool until there are `len` entries.
    ///
    /// # Panics
    /// If the pool has too few: a programmer's error.
    pub fn grow(&mut self, pool: &BlockPool, len: usize) {
        while self.entries.len() < len {
            self.push(Some(pool.allocate().expect("the scheduler should give away free blocks only")));
        }
    }

    /// Gives back the first `count` blocks, unless it has done so before.
    pub fn release_first(&mut self, count: usize) {
        // Backwards, as everywhere: the beginning of a sequence is what others have in common with it.
        let count = count.min(self.entries.len());
        let held = self.entries[..count].iter_mut().rev().take_while(|entry| entry.is_some());
        let num_released = held.map(Option::take).count();
        self.num_live -= num_released;
    }

    /// Gives all blocks back, the last one first: so it is also evicted first.
    pub fn clear(&mut self) {
        while self.entries.pop().is_some() {}
        self.num_live = 0;
    }

    /// The block at an entry, if it is held.
    pub fn get(&self, index: usize) -> Option<&Block> {
        self.entries.get(index)?.as_ref()
    }

    /// Ids in order of position; [`BlockId::NULL`] for what was given back.
    pub fn ids(&self) -> Vec<BlockId> {
        self.entries.iter().map(|entry| entry.as_ref().map_or(BlockId::NULL, Block::id)).collect()
    }
}

impl Drop for BlockTable {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BlockHash, CacheScope};

    #[test]
    fn blocks_before_a_window_are_given_back_once() {
        let pool = BlockPool::new(5);
        let mut table = BlockTable::default();
        table.grow(&pool, 4);
        table.release_first(2);
        assert_eq!((table.len(), table.num_live(), pool.num_free()), (4, 2, 3));
        table.release_first(3);
        assert_eq!((table.len(), table.num_live(), pool.num_free()), (4, 1, 4));
        assert_eq!(table.ids()[..3], [BlockId::NULL; 3]);
        assert_eq!(table.ids()[3], table.get(3).unwrap().id());
        drop(table);
        assert_eq!(pool.num_free(), 5);
    }

    #[test]
    fn the_tail_of_a_sequence_is_evicted_first() {
        let pool = BlockPool::new(3);
        let hashes = BlockHash::chain(&CacheScope::default(), &[1, 2, 3], 1);
        let mut table = BlockTable::default();
        table.grow(&pool, 3);
        for (index, hash) in hashes.iter().enumerate() {
            pool.register(table.get(index).unwrap(), *hash);
        }
        drop(table);
        let _taken = pool.allocate().unwrap();
        assert_eq!([0, 1, 2].map(|index| pool.contains(&hashes[index])), [true, true, false]);
    }
}
