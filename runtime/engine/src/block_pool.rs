//! KV blocks of one cache group: counted references, freed by `Drop`, kept for reuse by their hash.
//!
//! The pool knows ids only; the bytes belong to the backend. A block whose content is final may be registered under its
//! hash. When nobody holds it any more it stays findable, until it is the one that was freed longest ago and a block is
//! needed.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{BlockHash, BlockId};

/// All blocks of one cache group. Clones share the same blocks.
#[derive(Debug, Clone)]
pub struct BlockPool {
    shared: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Without a hash. Taken from the end: what was freed last is reused first, while it is in the processor's cache.
    free: Vec<BlockId>,
    /// With a hash but without a holder, by the time they were freed.
    idle: BTreeMap<u64, BlockId>,
    /// Ticks with each freed block.
    now: u64,
    /// Indexed by block id.
    blocks: Vec<Entry>,
    by_hash: HashMap<BlockHash, BlockId>,
    num_evictions: u64,
}

#[derive(Debug, Clone, Default)]
struct Entry {
    reference_count: u32,
    hash: Option<BlockHash>,
    /// Its key in `idle`, while it is there.
    freed_at: u64,
}

/// One counted reference to a block; when the last one is dropped the block may be taken by others.
#[derive(Debug)]
pub struct Block {
    id: BlockId,
    shared: Arc<Mutex<State>>,
}

impl BlockPool {
    /// A pool of `num_blocks` free blocks.
    pub fn new(num_blocks: u32) -> Self {
        let free = (0..num_blocks).rev().map(BlockId).collect();
        let blocks = vec![Entry::default(); num_blocks as usize];
        Self { shared: Arc::new(Mutex::new(State { free, blocks, ..State::default() })) }
    }

    /// Takes a block that nobody holds, or `None` if there is none. One with a hash loses it, the oldest first.
    pub fn allocate(&self) -> Option<Block> {
        let mut state = lock(&self.shared);
        let id = match state.free.pop() {
            Some(id) => id,
            None => state.evict()?,
        };
        state.blocks[id.0 as usize].reference_count = 1;
        Some(self.block(id))
    }

    /// The block that was registered under a hash, if it still has its content.
    pub fn find(&self, hash: &BlockHash) -> Option<Block> {
        let mut state = lock(&self.shared);
        let id = *state.by_hash.get(hash)?;
        let entry = &mut state.blocks[id.0 as usize];
        entry.reference_count += 1;
        if entry.reference_count == 1 {
            let freed_at = entry.freed_at;
            state.idle.remove(&freed_at);
        }
        Some(self.block(id))
    }

    /// Whether a block is registered under a hash.
    pub fn contains(&self, hash: &BlockHash) -> bool {
        lock(&self.shared).by_hash.contains_key(hash)
    }

    /// Makes a block findable. Its content must be final, as long as anyone holds it. Does nothing if another block is
    /// registered under the same hash: block tables never change.
    pub fn register(&self, block: &Block, hash: BlockHash) {
        let mut state = lock(&self.shared);
        if state.by_hash.contains_key(&hash) || state.blocks[block.id.0 as usize].hash.is_some() {
            return;
        }
        state.by_hash.insert(hash, block.id);
        state.blocks[block.id.0 as usize].hash = Some(hash);
    }

    /// All blocks that can be found, in no order.
    pub fn registered(&self) -> Vec<(BlockHash, BlockId)> {
        lock(&self.shared).by_hash.iter().map(|(hash, id)| (*hash, *id)).collect()
    }

    /// Blocks that nobody holds.
    pub fn num_free(&self) -> usize {
        let state = lock(&self.shared);
        state.free.len() + state.idle.len()
    }

    /// Blocks in all.
    pub fn num_blocks(&self) -> usize {
        lock(&self.shared).blocks.len()
    }

    /// Blocks that have lost their content to others so far.
    pub fn num_evictions(&self) -> u64 {
        lock(&self.shared).num_evictions
    }

    fn block(&self, id: BlockId) -> Block {
        Block { id, shared: Arc::clone(&self.shared) }
    }
}

impl State {
    fn evict(&mut self) -> Option<BlockId> {
        let (_, id) = self.idle.pop_first()?;
        if let Some(hash) = self.blocks[id.0 as usize].hash.take() {
            self.by_hash.remove(&hash);
        }
        self.num_evictions += 1;
        Some(id)
    }
}

impl Block {
    /// Which block this is.
    pub fn id(&self) -> BlockId {
        self.id
    }
}

impl Clone for Block {
    fn clone(&self) -> Self {
        lock(&self.shared).blocks[self.id.0 as usize].reference_count += 1;
        Self { id: self.id, shared: Arc::clone(&self.shared) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let mut state = lock(&self.shared);
        let now = state.now;
        let entry = &mut state.blocks[self.id.0 as usize];
        entry.reference_count -= 1;
        if entry.reference_count > 0 {
            return;
        }
        if entry.hash.is_some() {
            entry.freed_at = now;
            state.idle.insert(now, self.id);
            state.now += 1;
        } else {
            state.free.push(self.id);
        }
    }
}

/// No code panics while it holds the lock, so a poisoned state is still a whole one.
fn lock(shared: &Mutex<State>) -> MutexGuard<'_, State> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CacheScope;

    fn hash(number: u32) -> BlockHash {
        BlockHash::root(&CacheScope::default()).next(&[number])
    }

    #[test]
    fn a_dropped_block_is_free_again() {
        let pool = BlockPool::new(2);
        let first = pool.allocate().unwrap();
        let second = pool.allocate().unwrap();
        assert_ne!(first.id(), second.id());
        assert!(pool.allocate().is_none());
        let id = first.id();
        drop(first);
        assert_eq!(pool.num_free(), 1);
        assert_eq!(pool.allocate().unwrap().id(), id);
        drop(second);
        assert_eq!(pool.num_free(), 2);
    }

    #[test]
    fn a_block_with_two_references_is_freed_by_the_last() {
        let pool = BlockPool::new(1);
        let first = pool.allocate().unwrap();
        let second = first.clone();
        drop(first);
        assert_eq!(pool.num_free(), 0);
        drop(second);
        assert_eq!(pool.num_free(), 1);
    }

    #[test]
    fn a_registered_block_is_found_until_it_is_evicted_and_the_oldest_goes_first() {
        let pool = BlockPool::new(3);
        let blocks: Vec<Block> = (0..3).map(|_| pool.allocate().unwrap()).collect();
        let ids: Vec<BlockId> = blocks.iter().map(Block::id).collect();
        pool.register(&blocks[0], hash(0));
        pool.register(&blocks[1], hash(1));
        drop(blocks);
        assert_eq!(pool.num_free(), 3);
        // The one without a hash is taken first, then the one that was freed first.
        let third = pool.allocate().unwrap();
        assert_eq!(third.id(), ids[2]);
        let first = pool.allocate().unwrap();
        assert_eq!((first.id(), pool.num_evictions()), (ids[0], 1));
        assert!(pool.find(&hash(0)).is_none());
        let second = pool.find(&hash(1)).unwrap();
        assert_eq!((second.id(), pool.num_free()), (ids[1], 0));
        assert!(pool.allocate().is_none(), "a block that was found is not free");
        drop(second);
        assert!(pool.contains(&hash(1)));
    }

    #[test]
    fn the_first_block_of_a_hash_keeps_it() {
        let pool = BlockPool::new(2);
        let (first, second) = (pool.allocate().unwrap(), pool.allocate().unwrap());
        pool.register(&first, hash(7));
        pool.register(&second, hash(7));
        assert_eq!(pool.find(&hash(7)).unwrap().id(), first.id());
        drop(second);
        assert_eq!(pool.num_free(), 1);
        assert_eq!(pool.registered(), [(hash(7), first.id())]);
    }
}
