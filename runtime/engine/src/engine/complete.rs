//! What a step computed: tokens from logits, blocks that others may use.

use super::{Engine, Event};
use crate::random::sequence_seed;
use crate::sample::{Draw, SampleError, Sampled, sample};
use crate::sequence::Sequence;
use crate::step_plan::{PlannedSequence, StepPlan};
use crate::{SequenceId, TokenMask};

/// Stands where a token is thrown away by [`Engine::complete`].
const UNUSED: Sampled = Sampled { token_id: 0, logprobs: None };
/// A thread costs some ten microseconds: each is to have ten times of that to do.
const LOGITS_PER_THREAD: usize = 256 * 1024;

impl Engine {
    /// Chooses a token for each row of logits.
    ///
    /// # Shapes
    /// `logits`: `[num_logits, vocab_size]`, row-major, in the order of [`StepPlan::logit_rows`]; `masks`: one entry
    /// per row, `None` where every token is allowed.
    ///
    /// # Panics
    /// If the two have not that shape: a programmer's error.
    pub fn sample(
        &self,
        plan: &StepPlan,
        logits: &[f32],
        vocab_size: usize,
        masks: &[Option<TokenMask>],
    ) -> Vec<Result<Sampled, SampleError>> {
        let num_logits = plan.logit_rows().count();
        assert_eq!(logits.len(), num_logits * vocab_size, "logits should be [num_logits, vocab_size]");
        assert_eq!(masks.len(), num_logits, "masks should be [num_logits]");
        let mut first = 0;
        let jobs = plan.wanting_logits().map(|planned| {
            let own = first..first + planned.num_logits();
            first = own.end;
            Job {
                sequence: self.find(planned.id),
                logits: &logits[own.start * vocab_size..own.end * vocab_size],
                masks: &masks[own],
            }
        });
        let jobs: Vec<Job<'_>> = jobs.collect();
        let threads = self.config.sampling_threads.min(logits.len() / LOGITS_PER_THREAD).max(1);
        choose_all(&jobs, vocab_size, threads)
    }

    fn find(&self, id: SequenceId) -> Option<&Sequence> {
        self.running.iter().find(|sequence| sequence.id == id)
    }

    /// Takes in what a step computed: `sampled` in the order of [`StepPlan::logit_rows`].
    ///
    /// Sequences that ended while the step was computed are left out. Blocks of ended sequences are free on return.
    pub fn complete(&mut self, plan: &StepPlan, sampled: Vec<Result<Sampled, SampleError>>) -> Vec<Event> {
        self.is_step_planned = false;
        self.retired.clear();
        let mut sampled = sampled.into_iter();
        let mut events = Vec::new();
        for planned in &plan.sequences {
            let outcomes: Vec<_> = sampled.by_ref().take(planned.num_logits()).collect();
            let Some(position) = self.running.iter().position(|sequence| sequence.id == planned.id) else { continue };
            let first_event = events.len();
            self.take_in(position, planned, outcomes, &mut events);
            if events[first_event..].iter().any(|event| !matches!(event, Event::Token { finished: None, .. })) {
                self.running.remove(position);
            }
        }
        events
    }

    fn take_in(
        &mut self,
        position: usize,
        planned: &PlannedSequence,
        outcomes: Vec<Result<Sampled, SampleError>>,
        events: &mut Vec<Event>,
    ) {
        let snapshot_at = self.snapshot_at(&self.running[position]);
        let sequence = &mut self.running[position];
        let draft = std::mem::take(&mut sequence.draft);
        let mut num_accepted = 0;
        for (index, outcome) in outcomes.into_iter().enumerate() {
            match outcome {
                Err(error) => {
                    // What it computed is not to be trusted: nothing of it is registered.
                    events.push(Event::Failed { sequence: planned.id, error });
                    return;
                }
                Ok(sampled) => {
                    let token = sampled.token_id;
                    let finished = sequence.append(token, &self.config.eos_token_ids);
                    events.push(Event::Token { sequence: planned.id, sampled, finished });
                    if finished.is_some() || draft.get(index) != Some(&token) {
                        break;
                    }
                    num_accepted += 1;
                }
            }
        }
        if let Some(drafter) = sequence.drafter.as_mut().filter(|_| !draft.is_empty()) {
            drafter.learn(draft.len(), num_accepted);
            self.counters.accepted_tokens += num_accepted as u64;
        }
        // What was computed for wrong guesses is written over later.
        sequence.num_computed = planned.context_len + planned.query.len() - draft.len() + num_accepted;
        sequence.share = 0;
        sequence.restored.clear();
        sequence.register(&self.groups);
        if let Some(boundary) = snapshot_at.filter(|_| !sequence.kept.is_empty()) {
            let hash = sequence.hashes[boundary / self.config.block_size - 1];
            for (group, block) in sequence.kept.drain(..) {
                self.groups.pools[group].register(&block, hash);
            }
        }
        sequence.release_out_of_sight(&self.groups);
    }
}

/// The rows of one sequence; nothing is chosen for one that ended meanwhile.
struct Job<'a> {
    sequence: Option<&'a Sequence>,
    logits: &'a [f32],
    masks: &'a [Option<TokenMask>],
}

/// Shares the sequences among threads: a row of 128 k logits takes up to half a millisecond, in which a GPU waits.
fn choose_all(jobs: &[Job<'_>], vocab_size: usize, threads: usize) -> Vec<Result<Sampled, SampleError>> {
    let choose_these = |jobs: &[Job<'_>]| {
        let mut sampled = Vec::new();
        for Job { sequence, logits, masks } in jobs {
            match sequence {
                Some(sequence) => choose(sequence, logits.chunks_exact(vocab_size).zip(*masks), &mut sampled),
                None => sampled.extend(masks.iter().map(|_| Ok(UNUSED))),
            }
        }
        sampled
    };
    let mut parts = jobs.chunks(jobs.len().div_ceil(threads).max(1));
    let own = parts.next().unwrap_or_default();
    std::thread::scope(|scope| {
        let start =
            |part| std::thread::Builder::new().spawn_scoped(scope, move || choose_these(part)).map_err(|_| part);
        // Collected first, so that all of them run.
        let others: Vec<_> = parts.map(start).collect();
        let mut sampled = choose_these(own);
        for other in others {
            sampled.extend(match other {
                Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                // The machine has no thread to give.
                Err(part) => choose_these(part),
            });
        }
        sampled
    })
}

/// Samples the rows of one sequence. With each row the guess before it is taken for granted; the first token that
/// differs from its guess makes the rest useless.
fn choose<'a>(
    sequence: &Sequence,
    rows: impl Iterator<Item = (&'a [f32], &'a Option<TokenMask>)>,
    sampled: &mut Vec<Result<Sampled, SampleError>>,
) {
    let params = &sequence.request.sampling;
    let seed = sequence_seed(params.seed, sequence.id.index);
    let mut is_useful = true;
    for (index, (row, mask)) in rows.enumerate() {
        if !is_useful {
            sampled.push(Ok(UNUSED));
            continue;
        }
        let draw = Draw { seed, position: (sequence.num_generated() + index) as u64 };
        let outcome = sample(row, params, sequence.counts.as_ref(), mask.as_ref(), draw);
        is_useful = matches!(&outcome, Ok(chosen) if sequence.draft.get(index) == Some(&chosen.token_id));
        sampled.push(outcome);
    }
}
