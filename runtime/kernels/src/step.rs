//! One ragged step: some tokens of some sequences, with the blocks they live in.
//!
//! Prefill, decode and mixtures of both are the same thing here. A sequence contributes `query_len` tokens that
//! follow `context_len` tokens already in the cache.

use crate::{CacheGroupKind, Limits};

/// In the block table of a window group: positions that no query can see any more.
pub const EVICTED_BLOCK: u32 = u32::MAX;

/// Copies the state of all layers of a recurrent group from one slot to another: a snapshot, or its restoration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotCopy {
    /// Index of the group.
    pub group: usize,
    /// Slot that is read.
    pub from: u32,
    /// Slot that is overwritten.
    pub to: u32,
}

/// The part of one sequence in a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepSequence {
    /// First row of this sequence in [`Step::token_ids`].
    pub query_start: usize,
    /// Its number of rows, at least 1.
    pub query_len: usize,
    /// Tokens of the sequence that are in the cache before this step.
    pub context_len: usize,
    /// Block ids per cache group, in order of position; enough for `context_len + query_len` tokens. In a window group
    /// blocks that no query can see any more may be [`EVICTED_BLOCK`]. In a recurrent group: the one slot of the
    /// sequence, which starts as zeroes where `context_len` is 0.
    pub block_tables: Vec<Vec<u32>>,
}

/// One step of a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
    /// Tokens of all sequences, one after another.
    pub token_ids: Vec<u32>,
    /// Position of each token in its sequence; axes beyond the first serve multi-axis rotary models.
    pub positions: Vec<[u32; 3]>,
    /// The sequences, in the order of their rows.
    pub sequences: Vec<StepSequence>,
    /// Rows whose logits are wanted, ascending. Several of one sequence where drafts are verified.
    pub logit_indices: Vec<usize>,
    /// Done before anything is computed, in order.
    pub copies_before: Vec<SlotCopy>,
    /// Done after all is computed, in order.
    pub copies_after: Vec<SlotCopy>,
}

/// Why a step is refused before anything is computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// Two lengths that must agree do not.
    #[error("step is inconsistent: {what} is {found}, expected {expected}")]
    Inconsistent {
        /// Which figure.
        what: &'static str,
        /// Its value.
        found: usize,
        /// What it should be.
        expected: usize,
    },
    /// Something exceeds what was prepared.
    #[error("step exceeds the prepared limits: {what} is {found}, at most {limit}")]
    TooLarge {
        /// Which figure.
        what: &'static str,
        /// Its value.
        found: usize,
        /// The limit.
        limit: usize,
    },
}

impl Step {
    /// Checks everything that a backend would otherwise have to trust.
    ///
    /// # Errors
    /// [`StepError`] naming the figure that is wrong, with both values.
    pub fn validate(&self, plan: &crate::Plan, limits: &Limits) -> Result<(), StepError> {
        let num_tokens = self.token_ids.len();
        at_most("tokens", num_tokens, limits.max_tokens_per_step)?;
        at_most("sequences", self.sequences.len(), limits.max_sequences)?;
        at_most("logit rows", self.logit_indices.len(), limits.max_logits_per_step)?;
        equal("number of positions", self.positions.len(), num_tokens)?;
        for token in &self.token_ids {
            at_most("token id", *token as usize, plan.vocab_size.saturating_sub(1))?;
        }
        if num_tokens == 0 {
            equal("logit rows of an empty step", self.logit_indices.len(), 0)?;
        }
        for index in &self.logit_indices {
            at_most("logit index", *index, num_tokens.saturating_sub(1))?;
        }
        self.validate_copies(plan, limits)?;
        let mut next_row = 0;
        for sequence in &self.sequences {
            equal("query start", sequence.query_start, next_row)?;
            equal("sequence with at least one row", usize::from(sequence.query_len > 0), 1)?;
            next_row = next_row.saturating_add(sequence.query_len);
            self.validate_blocks(sequence, plan, limits)?;
        }
        equal("rows of all sequences", next_row, num_tokens)
    }

    fn validate_blocks(&self, sequence: &StepSequence, plan: &crate::Plan, limits: &Limits) -> Result<(), StepError> {
        equal("block tables", sequence.block_tables.len(), plan.cache_groups.len())?;
        let length = sequence.context_len.saturating_add(sequence.query_len);
        at_most("sequence length", length, limits.max_context)?;
        let groups = plan.cache_groups.iter().zip(&limits.num_blocks);
        for (table, (group, num_blocks)) in sequence.block_tables.iter().zip(groups) {
            let last_block = num_blocks.saturating_sub(1);
            let needed = match group.kind {
                CacheGroupKind::Recurrent { .. } => 1,
                _ => length.div_ceil(limits.block_size),
            };
            equal("blocks present for the length", usize::from(table.len() >= needed), 1)?;
            let seen = match group.kind {
                CacheGroupKind::Window { window } => {
                    (sequence.context_len + 1).saturating_sub(window) / limits.block_size
                }
                _ => 0,
            };
            for (index, block) in table[..needed].iter().enumerate() {
                if *block != EVICTED_BLOCK || index >= seen {
                    at_most("block id", *block as usize, last_block)?;
                }
            }
        }
        Ok(())
    }

    fn validate_copies(&self, plan: &crate::Plan, limits: &Limits) -> Result<(), StepError> {
        for copy in self.copies_before.iter().chain(&self.copies_after) {
            at_most("group of a copied slot", copy.group, plan.cache_groups.len().saturating_sub(1))?;
            let kind = plan.cache_groups[copy.group].kind;
            equal("copy in a recurrent group", usize::from(matches!(kind, CacheGroupKind::Recurrent { .. })), 1)?;
            let last_slot = limits.num_blocks[copy.group].saturating_sub(1);
            at_most("slot that is copied", copy.from as usize, last_slot)?;
            at_most("slot that is copied to", copy.to as usize, last_slot)?;
        }
        Ok(())
    }
}

fn equal(what: &'static str, found: usize, expected: usize) -> Result<(), StepError> {
    if found == expected { Ok(()) } else { Err(StepError::Inconsistent { what, found, expected }) }
}

fn at_most(what: &'static str, found: usize, limit: usize) -> Result<(), StepError> {
    if found <= limit { Ok(()) } else { Err(StepError::TooLarge { what, found, limit }) }
}
