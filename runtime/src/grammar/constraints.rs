//! Which sequences have a grammar, where in it they are, and what it allows them next.

use std::collections::HashMap;

use kindling_engine::{RequestId, SequenceId, StepPlan, TokenId, TokenMask};

use super::{Accepted, Grammar, MaskThread};
use crate::metrics::Metrics;

/// The grammars of all sequences that have one. Belongs to the engine's thread.
#[derive(Default)]
pub struct Constraints {
    sequences: HashMap<SequenceId, Constrained>,
    thread: MaskThread,
}

struct Constrained {
    /// `None` while its mask is computed.
    grammar: Option<Grammar>,
    /// For the present position; kept for a sequence that is preempted.
    mask: Option<TokenMask>,
}

impl Constraints {
    /// All sequences of a request start at the grammar's beginning. Their tokens must not be guessed ahead: there is one
    /// mask at a time.
    pub fn add(&mut self, request: RequestId, num_sequences: u32, grammar: Grammar) {
        for index in 1..num_sequences {
            let copy = Constrained { grammar: Some(grammar.copy()), mask: None };
            self.sequences.insert(SequenceId { request, index }, copy);
        }
        let first = Constrained { grammar: Some(grammar), mask: None };
        self.sequences.insert(SequenceId { request, index: 0 }, first);
    }

    /// Forgets the sequences of a request.
    pub fn remove(&mut self, request: RequestId) {
        if !self.sequences.is_empty() {
            self.sequences.retain(|id, _| id.request != request);
        }
    }

    /// Begins to compute the masks that a step needs; [`Self::masks`] waits for them. In between is the forward pass.
    ///
    /// Returns who cannot go on, and why.
    pub fn begin(&mut self, plan: &StepPlan) -> Vec<(RequestId, String)> {
        let mut failed = Vec::new();
        if self.sequences.is_empty() {
            return failed;
        }
        for planned in plan.wanting_logits() {
            let Some(constrained) = self.sequences.get_mut(&planned.id) else { continue };
            if constrained.mask.is_some() {
                continue;
            }
            let begun = match constrained.grammar.take() {
                Some(grammar) => self.thread.begin(planned.id, grammar),
                None => Err("its grammar was lost".to_owned()),
            };
            if let Err(problem) = begun {
                failed.push((planned.id.request, problem));
            }
        }
        failed
    }

    /// One entry for each row of logits, in the order of [`StepPlan::logit_rows`], and who cannot go on, and why:
    /// their rows have no mask, and must not be used.
    pub fn masks(&mut self, plan: &StepPlan, metrics: &Metrics) -> (Vec<Option<TokenMask>>, Vec<(RequestId, String)>) {
        let mut failed = Vec::new();
        for done in self.thread.collect() {
            metrics.grammar_mask_seconds.observe(done.time.as_secs_f64());
            // Whoever was aborted meanwhile is not there any more.
            let Some(constrained) = self.sequences.get_mut(&done.id) else { continue };
            constrained.grammar = done.grammar;
            match done.mask {
                Ok(mask) => constrained.mask = Some(mask),
                Err(problem) => failed.push((done.id.request, problem)),
            }
        }
        let mask = |id: &SequenceId| self.sequences.get(id).and_then(|constrained| constrained.mask.clone());
        (plan.logit_rows().map(|(planned, _)| mask(&planned.id)).collect(), failed)
    }

    /// Takes in a token that was chosen; `None` if the sequence has no grammar.
    pub fn accept(&mut self, id: SequenceId, token: TokenId) -> Option<Accepted> {
        let constrained = self.sequences.get_mut(&id)?;
        constrained.mask = None;
        let lost = || Accepted::Failed("its grammar was lost".to_owned());
        Some(constrained.grammar.as_mut().map_or_else(lost, |grammar| grammar.accept(token)))
    }
}
