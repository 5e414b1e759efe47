//! One ragged step: some tokens of some sequences, with the blocks they live in.
//!
//! Prefill, decode and mixtures of both are the same thing here. A sequence contributes `query_len` tokens that
//! follow `context_len` tokens already in the cache.

use crate::Limits;

/// The part of one sequence in a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepSequence {
    /// First row of this sequence in [`Step::token_ids`].
    pub query_start: usize,
    /// Its number of rows, at least 1.
    pub query_len: usize,
    /// Tokens of the sequence that are in the cache before this step.
    pub context_len: usize,
    /// Block ids per cache group, in order of position; enough for `context_len + query_len` tokens.
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
    /// Rows whose logits are wanted, ascending.
    pub logit_indices: Vec<usize>,
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
        for table in &sequence.block_tables {
            let needed = length.div_ceil(limits.block_size);
            equal("blocks present for the length", usize::from(table.len() >= needed), 1)?;
            for block in table {
                at_most("block id", *block as usize, limits.num_blocks.saturating_sub(1))?;
            }
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
