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
    /// States to restore before the step computes.
    pub copies_before: Vec<SlotCopy>,
    /// States to keep after it has computed.
    pub copies_after: Vec<SlotCopy>,
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
    /// Block ids per cache group, in order of position; of a recurrent group, its slot.
    pub block_tables: Vec<Vec<BlockId>>,
    /// Whether the logits of its last token, and of those that are guessed to follow, are wanted: then tokens are
    /// sampled from them.
    pub wants_logits: bool,
    /// How many of its tokens, at the end, are guesses.
    pub num_drafts: usize,
    /// Tokens of the prompt that came from the prefix cache when the sequence started.
    pub cached_tokens: usize,
}

/// Copies the state of a sequence from one slot of a recurrent group to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotCopy {
    /// Index of the cache group.
    pub group: usize,
    /// The slot to read.
    pub from: BlockId,
    /// The slot to write.
    pub to: BlockId,
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

    /// The rows of logits: whose they are, and which token of the step each follows.
    pub fn logit_rows(&self) -> impl Iterator<Item = (&PlannedSequence, usize)> {
        self.wanting_logits().flat_map(|planned| {
            let first = planned.query.end - 1 - planned.num_drafts;
            (first..planned.query.end).map(move |token| (planned, token))
        })
    }
}

impl PlannedSequence {
    /// Its rows of logits.
    pub fn num_logits(&self) -> usize {
        if self.wants_logits { self.num_drafts + 1 } else { 0 }
    }
}
