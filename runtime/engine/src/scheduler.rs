//! Which sequences get how many tokens in the next step: a pure function.
//!
//! There are no prefill and decode phases. Each sequence has tokens and a count of those already computed; a step
//! brings the computed ones nearer to all of them. Running sequences come first, in order of rank (priority, then
//! arrival); when blocks run out, the sequence of the lowest rank gives its own back and is computed again later.

/// What the scheduler needs to know of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Tokens of the sequence, generated ones included.
    pub num_tokens: usize,
    /// Of these, how many are in the cache. Less than `num_tokens`.
    pub num_computed: usize,
    /// Blocks it holds, per cache group.
    pub num_blocks: usize,
}

/// What a step may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Tokens per step, over all sequences.
    pub max_batched_tokens: usize,
    /// Sequences that may hold blocks at a time.
    pub max_running: usize,
    /// Tokens per block.
    pub block_size: usize,
    /// Free blocks, of the cache group that has fewest.
    pub free_blocks: usize,
}

/// What one sequence gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Its index among the candidates.
    pub index: usize,
    /// Tokens to compute, at least 1.
    pub num_tokens: usize,
    /// Blocks to allocate before.
    pub new_blocks: usize,
}

/// The decision for one step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Schedule {
    /// Running sequences that lose their blocks, lowest rank first; to be carried out before all else.
    pub preempt: Vec<usize>,
    /// Running sequences that compute.
    pub run: Vec<Share>,
    /// Waiting sequences that start, always the first ones of the queue.
    pub admit: Vec<Share>,
}

/// Decides one step. Both lists are in order of rank, highest first.
///
/// The highest-ranked running sequence always gets at least one token, provided that it fits into all blocks alone;
/// so every sequence ends.
pub fn plan(running: &[Candidate], waiting: &[Candidate], budget: Budget) -> Schedule {
    let mut planner =
        Planner { budget, free: budget.free_blocks, tokens: budget.max_batched_tokens, kept: running.len() };
    let mut schedule = Schedule::default();
    let mut index = 0;
    while index < planner.kept {
        planner.run(running, index, &mut schedule);
        index += 1;
    }
    // Blocks were short a moment ago: newcomers would be thrown out again.
    if schedule.preempt.is_empty() {
        planner.admit(running, waiting, &mut schedule);
    }
    schedule
}

struct Planner {
    budget: Budget,
    /// Blocks not yet given away.
    free: usize,
    /// Tokens not yet given away.
    tokens: usize,
    /// Running sequences before this index keep their blocks.
    kept: usize,
}

impl Planner {
    fn blocks_for(&self, num_tokens: usize) -> usize {
        num_tokens.div_ceil(self.budget.block_size)
    }

    /// Gives one running sequence its share, at the cost of those ranked lower.
    fn run(&mut self, running: &[Candidate], index: usize, schedule: &mut Schedule) {
        let candidate = running[index];
        let remaining = candidate.num_tokens - candidate.num_computed;
        // A long prompt leaves one token to each sequence after it: decoding goes on meanwhile.
        let ranked_lower = self.kept - index - 1;
        let mut num_tokens = remaining.min(self.tokens.saturating_sub(ranked_lower).max(1)).min(self.tokens);
        if num_tokens == 0 {
            return;
        }
        let missing = |planner: &Self, num_tokens| {
            planner.blocks_for(candidate.num_computed + num_tokens).saturating_sub(candidate.num_blocks)
        };
        while missing(self, num_tokens) > self.free && self.kept > index + 1 {
            self.kept -= 1;
            self.free += running[self.kept].num_blocks;
            schedule.preempt.push(self.kept);
        }
        if missing(self, num_tokens) > self.free {
            // Lowest in rank itself: takes what there is, and waits with its blocks if that is nothing.
            let room = (candidate.num_blocks + self.free) * self.budget.block_size;
            num_tokens = num_tokens.min(room.saturating_sub(candidate.num_computed));
        }
        if num_tokens > 0 {
            let new_blocks = missing(self, num_tokens);
            self.free -= new_blocks;
            self.tokens -= num_tokens;
            schedule.run.push(Share { index, num_tokens, new_blocks });
        }
    }

    /// Starts waiting sequences while tokens, blocks and places last. Nobody overtakes the first of the queue.
    fn admit(&mut self, running: &[Candidate], waiting: &[Candidate], schedule: &mut Schedule) {
        // What the running ones still need for tokens they have is spoken for.
        let mut promised: usize = running
            .iter()
            .map(|candidate| self.blocks_for(candidate.num_tokens).saturating_sub(candidate.num_blocks))
            .sum();
        promised -= schedule.run.iter().map(|share| share.new_blocks).sum::<usize>();
        let places = self.budget.max_running.saturating_sub(running.len());
        for (index, candidate) in waiting.iter().enumerate().take(places) {
            // Room for the whole prompt and one token more: starting would else lead to preemption at once.
            let needed = self.blocks_for(candidate.num_tokens + 1);
            if self.tokens == 0 || needed + promised > self.free {
                break;
            }
            let num_tokens = candidate.num_tokens.min(self.tokens);
            let new_blocks = self.blocks_for(num_tokens);
            promised += needed - new_blocks;
            self.free -= new_blocks;
            self.tokens -= num_tokens;
            schedule.admit.push(Share { index, num_tokens, new_blocks });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Budget = Budget { max_batched_tokens: 32, max_running: 4, block_size: 4, free_blocks: 100 };

    fn decoding(num_tokens: usize) -> Candidate {
        Candidate { num_tokens, num_computed: num_tokens - 1, num_blocks: (num_tokens - 1).div_ceil(4) }
    }

    fn fresh(num_tokens: usize) -> Candidate {
        Candidate { num_tokens, num_computed: 0, num_blocks: 0 }
    }

    #[test]
    fn running_requests_are_scheduled_before_waiting_ones() {
        let schedule = plan(&[decoding(9), decoding(6)], &[fresh(100)], BUDGET);
        assert_eq!(schedule.run[0], Share { index: 0, num_tokens: 1, new_blocks: 1 });
        assert_eq!(schedule.run[1], Share { index: 1, num_tokens: 1, new_blocks: 0 });
        assert_eq!(schedule.admit, [Share { index: 0, num_tokens: 30, new_blocks: 8 }]);
    }

    #[test]
    fn a_long_prompt_leaves_a_token_to_those_after_it() {
        let prefilling = Candidate { num_tokens: 500, num_computed: 32, num_blocks: 8 };
        let schedule = plan(&[prefilling, decoding(7), decoding(7)], &[fresh(3)], BUDGET);
        let tokens: Vec<usize> = schedule.run.iter().map(|share| share.num_tokens).collect();
        assert_eq!(tokens, [30, 1, 1]);
        assert!(schedule.admit.is_empty());
    }

    #[test]
    fn the_latest_arrival_is_preempted_when_blocks_run_out() {
        let budget = Budget { free_blocks: 0, ..BUDGET };
        let schedule = plan(&[decoding(9), decoding(6), decoding(7)], &[fresh(3)], budget);
        assert_eq!(schedule.preempt, [2]);
        assert_eq!(schedule.run.len(), 2);
        assert!(schedule.admit.is_empty(), "nobody starts in a step that preempts");
    }

    #[test]
    fn the_last_of_the_running_waits_with_its_blocks() {
        let budget = Budget { free_blocks: 0, ..BUDGET };
        let schedule = plan(&[decoding(6), decoding(9)], &[], budget);
        assert_eq!(schedule.run, [Share { index: 0, num_tokens: 1, new_blocks: 0 }]);
        assert!(schedule.preempt.is_empty());
    }

    #[test]
    fn nobody_overtakes_the_first_of_the_queue() {
        let budget = Budget { free_blocks: 3, ..BUDGET };
        let schedule = plan(&[], &[fresh(40), fresh(2)], budget);
        assert_eq!(schedule, Schedule::default());
    }

    #[test]
    fn blocks_that_a_prefill_still_needs_are_not_given_away() {
        let prefilling = Candidate { num_tokens: 60, num_computed: 28, num_blocks: 7 };
        let budget = Budget { free_blocks: 9, max_batched_tokens: 8, ..BUDGET };
        let schedule = plan(&[prefilling], &[fresh(8)], budget);
        assert_eq!(schedule.run, [Share { index: 0, num_tokens: 8, new_blocks: 2 }]);
        assert!(schedule.admit.is_empty());
    }

    #[test]
    fn places_are_limited() {
        let schedule = plan(&[decoding(5); 3], &[fresh(2), fresh(2)], BUDGET);
        assert_eq!(schedule.admit.len(), 1);
    }
}
