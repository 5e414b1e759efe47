//! KV blocks of one cache group: counted references, freed by `Drop`.
//!
//! The pool knows ids only; the bytes belong to the backend.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::BlockId;

/// All blocks of one cache group. Clones share the same blocks.
#[derive(Debug, Clone)]
pub struct BlockPool {
    shared: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    /// Taken from the end: what was freed last is reused first, while it is still in the processor's cache.
    free: Vec<BlockId>,
    /// Indexed by block id.
    reference_counts: Vec<u32>,
}

/// One counted reference to a block; the block is free again when the last one is dropped.
#[derive(Debug)]
pub struct Block {
    id: BlockId,
    shared: Arc<Mutex<State>>,
}

impl BlockPool {
    /// A pool of `num_blocks` free blocks.
    pub fn new(num_blocks: u32) -> Self {
        let free = (0..num_blocks).rev().map(BlockId).collect();
        let reference_counts = vec![0; num_blocks as usize];
        Self { shared: Arc::new(Mutex::new(State { free, reference_counts })) }
    }

    /// Takes a free block, or `None` if there is none.
    pub fn allocate(&self) -> Option<Block> {
        let mut state = lock(&self.shared);
        let id = state.free.pop()?;
        state.reference_counts[id.0 as usize] = 1;
        Some(Block { id, shared: Arc::clone(&self.shared) })
    }

    /// Blocks that nobody holds.
    pub fn num_free(&self) -> usize {
        lock(&self.shared).free.len()
    }

    /// Blocks in all.
    pub fn num_blocks(&self) -> usize {
        lock(&self.shared).reference_counts.len()
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
        lock(&self.shared).reference_counts[self.id.0 as usize] += 1;
        Self { id: self.id, shared: Arc::clone(&self.shared) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let mut state = lock(&self.shared);
        let count = &mut state.reference_counts[self.id.0 as usize];
        *count -= 1;
        if *count == 0 {
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
}
