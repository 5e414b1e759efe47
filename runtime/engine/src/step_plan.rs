//! What to compute next, in the engine's own words; the caller translates it for its backend.

use std::ops::Range;

use crate::{BlockId, SequenceId, TokenId};

/// One ragged step over some sequences.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StepPlan {
    /// Tokens of all sequences, one after another.
    pub token_ids: Vec<TokenId>,
    /// The sequences, in the order of their tokens.
    pub sequences: Vec<PlannedSequence>,
    /// Sequences that lost their blocks to make this step possible.
    pub preempted: Vec<SequenceId>,
}

/// The part of one sequence in a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedSequence {
    /// Which sequence.
    pub id: SequenceId,
    /// Its tokens within [`StepPlan::token_ids`].
    pub query: Range<usize>,
    /// Tokens of the sequence that are in the cache before this step.
    pub context_len: usize,
    /// Block ids per cache group, in order of position.
    pub block_tables: Vec<Vec<BlockId>>,
    /// Whether the logits of its last token are wanted: then a token is sampled from them.
    pub wants_logits: bool,
}

impl StepPlan {
    /// Whether there is nothing to compute.
    pub fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Sequences whose logits are wanted, in the order of the rows of logits.
    pub fn wanting_logits(&self) -> impl Iterator<Item = &PlannedSequence> {
        self.sequences.iter().filter(|sequence| sequence.wants_logits)
    }
}
