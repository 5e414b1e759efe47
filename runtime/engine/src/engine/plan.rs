//! The next step: shares, newcomers, guesses, and the blocks for all of them.

use super::{Engine, insert};
use crate::scheduler::{Candidate, Decision, GroupUse, admit, room, share};
use crate::sequence::Sequence;
use crate::step_plan::{PlannedSequence, SlotCopy, StepPlan};

impl Engine {
    /// Decides the next step and reserves its blocks. Empty if there is nothing to do.
    ///
    /// # Panics
    /// If the step before was not completed: a programmer's error.
    pub fn plan_step(&mut self) -> StepPlan {
        assert!(!self.is_step_planned, "a planned step should be completed before the next one is planned");
        let mut plan = StepPlan::default();
        self.share_among_running(&mut plan);
        // Blocks were short a moment ago: newcomers would be thrown out again.
        if plan.preempted.is_empty() {
            self.admit_waiting();
        }
        self.draft();
        for index in 0..self.running.len() {
            if self.running[index].share > 0 {
                self.put_in(index, &mut plan);
            }
        }
        self.is_step_planned = !plan.is_empty();
        self.num_steps += i64::from(self.is_step_planned);
        plan
    }

    fn share_among_running(&mut self, plan: &mut StepPlan) {
        loop {
            let candidates = self.candidates();
            match share(&candidates, &self.group_uses(), self.groups.geometry) {
                Decision::PreemptLast => {
                    let Some(mut sequence) = self.running.pop() else { return };
                    sequence.release();
                    self.counters.preemptions += 1;
                    plan.preempted.push(sequence.id);
                    insert(&mut self.waiting, sequence);
                }
                Decision::Compute(shares) => {
                    for (sequence, share) in self.running.iter_mut().zip(shares) {
                        sequence.share = share;
                        if share > 0 {
                            sequence.grow(&self.groups, share);
                        }
                    }
                    return;
                }
            }
        }
    }

    /// Starts waiting sequences while tokens, blocks and places last. Nobody overtakes the first of the queue, unless
    /// that one only waits for a prefix that another is computing.
    fn admit_waiting(&mut self) {
        let mut index = 0;
        while index < self.waiting.len() && self.running.len() < self.config.max_running {
            let tokens_left = self.tokens_left();
            if tokens_left == 0 {
                return;
            }
            let mut sequence = self.waiting.remove(index);
            self.take_prefix(&mut sequence);
            if self.is_prefix_on_its_way(&sequence) {
                sequence.release();
                self.waiting.insert(index, sequence);
                index += 1;
                continue;
            }
            let candidate = sequence.candidate(self.until(&sequence));
            let geometry = self.groups.geometry;
            let Some(share) = admit(&candidate, tokens_left, &self.candidates(), &self.group_uses(), geometry) else {
                sequence.release();
                self.waiting.insert(index, sequence);
                return;
            };
            self.start(sequence, share);
        }
    }

    fn start(&mut self, mut sequence: Sequence, share: usize) {
        if sequence.cached_tokens.is_none() {
            sequence.cached_tokens = Some(sequence.num_computed);
            if sequence.request.prefix_cache.is_some() {
                self.counters.prefix_cache_queries += sequence.request.prompt.len() as u64;
                self.counters.prefix_cache_hits += sequence.num_computed as u64;
            }
        }
        sequence.share = share;
        sequence.grow(&self.groups, share);
        insert(&mut self.running, sequence);
    }

    /// Takes what the cache has of a sequence. Its last token is always computed: somebody wants its logits.
    fn take_prefix(&self, sequence: &mut Sequence) {
        let last = sequence.tokens.len() - 1;
        let hashes = sequence.hashes(last, self.config.block_size);
        let prefix = self.groups.take_prefix(hashes);
        sequence.take(prefix, &self.groups);
    }

    /// Whether a running sequence of higher rank is about to compute what this one lacks: several completions of one
    /// prompt, or agents that start with the same one, compute it once.
    fn is_prefix_on_its_way(&self, sequence: &Sequence) -> bool {
        let num_cached = sequence.num_registered;
        self.running.iter().filter(|other| other.rank < sequence.rank).any(|other| {
            // The end of the block that will be of use: the next one, or where a state is to be kept.
            let next = match self.snapshot_at(other) {
                Some(boundary) if other.num_computed < boundary => boundary / self.config.block_size,
                Some(_) => return false,
                None => num_cached + 1,
            };
            let wanted = sequence.hashes.get(next - 1);
            next > num_cached.max(other.num_registered) && wanted.is_some() && wanted == other.hashes.get(next - 1)
        })
    }

    /// Guesses tokens of those that decode, with the tokens and blocks that nobody else wants.
    fn draft(&mut self) {
        let Some(speculation) = self.config.speculation else { return };
        let is_decoding =
            |sequence: &Sequence| sequence.share == 1 && sequence.num_computed + 1 == sequence.tokens.len();
        let num_decoding = self.running.iter().filter(|sequence| is_decoding(sequence)).count();
        let longest = speculation.max_draft_tokens / num_decoding.max(1);
        let mut tokens_left = self.tokens_left();
        for index in 0..self.running.len() {
            let mut groups = self.group_uses();
            // One block for each is left alone, so that guessing never causes a preemption in the next step.
            groups.iter_mut().for_each(|group| group.num_free = group.num_free.saturating_sub(self.running.len()));
            let sequence = &mut self.running[index];
            if !is_decoding(sequence) {
                continue;
            }
            let room =
                room(&sequence.candidate(sequence.tokens.len()), &groups, self.groups.geometry).saturating_sub(1);
            // The last token of a sequence is never computed, and the one before it is sampled anyway.
            let wanted = (sequence.max_tokens - sequence.num_generated()).saturating_sub(1);
            let limit = longest.min(tokens_left).min(room).min(wanted);
            let Some(drafter) = sequence.drafter.as_mut().filter(|_| limit > 0) else { continue };
            sequence.draft = drafter.draft(&sequence.tokens, limit);
            let num_drafts = sequence.draft.len();
            sequence.grow(&self.groups, 1 + num_drafts);
            tokens_left -= num_drafts;
            self.counters.draft_tokens += num_drafts as u64;
        }
    }

    fn put_in(&mut self, index: usize, plan: &mut StepPlan) {
        self.keep_state(index);
        let sequence = &self.running[index];
        let slot = |group: usize| sequence.tables[group].get(0).map(crate::Block::id).expect("it should have a slot");
        for (group, from) in &sequence.restored {
            plan.copies_before.push(SlotCopy { group: *group, from: from.id(), to: slot(*group) });
        }
        for (group, to) in &sequence.kept {
            plan.copies_after.push(SlotCopy { group: *group, from: slot(*group), to: to.id() });
        }
        let start = plan.token_ids.len();
        let end_token = sequence.num_computed + sequence.share;
        plan.token_ids.extend_from_slice(&sequence.tokens[sequence.num_computed..end_token]);
        plan.token_ids.extend_from_slice(&sequence.draft);
        plan.sequences.push(PlannedSequence {
            id: sequence.id,
            query: start..plan.token_ids.len(),
            context_len: sequence.num_computed,
            block_tables: sequence.tables.iter().map(crate::BlockTable::ids).collect(),
            wants_logits: end_token == sequence.tokens.len(),
            num_drafts: sequence.draft.len(),
            cached_tokens: sequence.cached_tokens.unwrap_or(0),
        });
    }

    /// Finds slots for the state after this step, if it ends where one is worth keeping.
    fn keep_state(&mut self, index: usize) {
        let sequence = &self.running[index];
        let end = sequence.num_computed + sequence.share;
        if self.snapshot_at(sequence) != Some(end) {
            return;
        }
        let hash = sequence.hashes[end / self.config.block_size - 1];
        if !self.groups.has_snapshot(&hash) {
            let slots = self.groups.recurrent().map(|(group, pool)| Some((group, pool.allocate()?)));
            // All or nothing: a state is of use only with those of the other groups.
            self.running[index].kept = slots.collect::<Option<_>>().unwrap_or_default();
        }
    }

    /// Where the state of a sequence is to be kept: at the last full block of its prompt that another may begin with.
    pub(super) fn snapshot_at(&self, sequence: &Sequence) -> Option<usize> {
        if sequence.request.prefix_cache.is_none() || !self.groups.has_recurrent() {
            return None;
        }
        let block_size = self.config.block_size;
        let boundary = (sequence.request.prompt.len() - 1) / block_size * block_size;
        (boundary > 0).then_some(boundary)
    }

    /// How far a step may compute a sequence.
    fn until(&self, sequence: &Sequence) -> usize {
        let boundary = self.snapshot_at(sequence).filter(|boundary| sequence.num_computed < *boundary);
        boundary.unwrap_or(sequence.tokens.len())
    }

    fn candidates(&self) -> Vec<Candidate> {
        self.running.iter().map(|sequence| sequence.candidate(self.until(sequence))).collect()
    }

    fn group_uses(&self) -> Vec<GroupUse> {
        self.groups.iter().map(|(_, kind, pool)| GroupUse { kind, num_free: pool.num_free() }).collect()
    }

    fn tokens_left(&self) -> usize {
        let given: usize = self.running.iter().map(|sequence| sequence.share).sum();
        self.config.max_batched_tokens - given
    }
}
