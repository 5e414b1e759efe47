//! The state between steps: who runs, who waits, who holds which block.
//!
//! A caller repeats: [`Engine::plan_step`], compute, [`Engine::sample`], [`Engine::complete`].

use std::sync::Arc;

use crate::random::sequence_seed;
use crate::sample::{Draw, SampleError, Sampled, sample};
use crate::scheduler::{self, Budget, Candidate, Share};
use crate::sequence::Sequence;
use crate::step_plan::{PlannedSequence, StepPlan};
use crate::{AddError, BlockPool, FinishReason, Request, RequestId, SequenceId, TokenId, TokenMask};

/// What the engine may use, and what it must know of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineConfig {
    /// Cache groups of the model, at least 1.
    pub num_cache_groups: usize,
    /// KV blocks per cache group.
    pub num_blocks: u32,
    /// Tokens per KV block.
    pub block_size: usize,
    /// Tokens that a sequence may have; the blocks may allow less.
    pub max_context: usize,
    /// Sequences that may hold blocks at a time.
    pub max_running: usize,
    /// Sequences that may wait.
    pub max_waiting: usize,
    /// Tokens per step.
    pub max_batched_tokens: usize,
    /// Tokens that end a sequence unless its request ignores them.
    pub eos_token_ids: Vec<TokenId>,
}

/// What happened to a sequence.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// It got a token; with a reason if that was its last.
    Token {
        /// Which sequence.
        sequence: SequenceId,
        /// The token.
        sampled: Sampled,
        /// Why it ended, if it did.
        finished: Option<FinishReason>,
    },
    /// No token could be chosen; the sequence is gone.
    Failed {
        /// Which sequence.
        sequence: SequenceId,
        /// Why.
        error: SampleError,
    },
}

/// How busy the engine is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Sequences that hold blocks.
    pub num_running: usize,
    /// Sequences that wait for some.
    pub num_waiting: usize,
    /// Blocks in use, over all cache groups.
    pub blocks_used: usize,
    /// Blocks in all.
    pub blocks_total: usize,
}

/// All requests of one model.
#[derive(Debug)]
pub struct Engine {
    config: EngineConfig,
    pools: Vec<BlockPool>,
    /// In order of rank, like `waiting`.
    running: Vec<Sequence>,
    waiting: Vec<Sequence>,
    /// Ended while a step was computed; the step may still write into their blocks.
    retired: Vec<Sequence>,
    is_step_planned: bool,
    num_arrivals: u64,
}

impl Engine {
    /// An idle engine. The context is limited to what all blocks together can hold.
    pub fn new(mut config: EngineConfig) -> Self {
        config.max_context = config.max_context.min(config.num_blocks as usize * config.block_size);
        let pools = (0..config.num_cache_groups).map(|_| BlockPool::new(config.num_blocks)).collect();
        let (running, waiting, retired) = (Vec::new(), Vec::new(), Vec::new());
        Self { config, pools, running, waiting, retired, is_step_planned: false, num_arrivals: 0 }
    }

    /// Tokens that a sequence may have.
    pub fn max_context(&self) -> usize {
        self.config.max_context
    }

    /// Takes a request in; it waits until a step has room for it.
    ///
    /// # Errors
    /// [`AddError`] if it can never run, or not be kept waiting now.
    pub fn add(&mut self, request: Request) -> Result<(), AddError> {
        self.check(&request)?;
        let arrival = self.num_arrivals;
        self.num_arrivals += 1;
        let request = Arc::new(request);
        for index in 0..request.num_sequences {
            let groups = self.config.num_cache_groups;
            insert(&mut self.waiting, Sequence::new(&request, index, arrival, self.config.max_context, groups));
        }
        Ok(())
    }

    fn check(&self, request: &Request) -> Result<(), AddError> {
        let prompt_tokens = request.prompt.len();
        if prompt_tokens == 0 {
            return Err(AddError::EmptyPrompt);
        }
        if prompt_tokens >= self.config.max_context {
            return Err(AddError::PromptTooLong { prompt_tokens, max_context: self.config.max_context });
        }
        for (what, count) in [("max_tokens", request.max_tokens), ("num_sequences", request.num_sequences as usize)] {
            if count == 0 {
                return Err(AddError::Zero { what });
            }
        }
        if self.running.iter().chain(&self.waiting).any(|sequence| sequence.id.request == request.id) {
            return Err(AddError::DuplicateId(request.id));
        }
        let (num_running, num_waiting) = (self.running.len(), self.waiting.len());
        let places = self.config.max_running + self.config.max_waiting;
        if num_running + num_waiting + request.num_sequences as usize > places {
            return Err(AddError::QueueFull { num_running, num_waiting, max_waiting: self.config.max_waiting });
        }
        Ok(())
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// How busy it is.
    pub fn load(&self) -> Load {
        let blocks_total = self.pools.iter().map(BlockPool::num_blocks).sum();
        let blocks_free: usize = self.pools.iter().map(BlockPool::num_free).sum();
        Load {
            num_running: self.running.len(),
            num_waiting: self.waiting.len(),
            blocks_used: blocks_total - blocks_free,
            blocks_total,
        }
    }

    /// Ends all sequences of a request and says whether there were any.
    pub fn abort(&mut self, request: RequestId) -> bool {
        self.remove(|sequence| sequence.id.request == request)
    }

    /// Ends one sequence, e.g. because its text holds a stop string, and says whether it was there.
    pub fn stop(&mut self, id: SequenceId) -> bool {
        self.remove(|sequence| sequence.id == id)
    }

    fn remove(&mut self, matches: impl Fn(&Sequence) -> bool) -> bool {
        let mut removed: Vec<Sequence> = self.running.extract_if(.., |sequence| matches(sequence)).collect();
        removed.extend(self.waiting.extract_if(.., |sequence| matches(sequence)));
        let is_any = !removed.is_empty();
        if self.is_step_planned {
            self.retired.append(&mut removed);
        }
        is_any
    }

    /// Decides the next step and reserves its blocks. Empty if there is nothing to do.
    ///
    /// # Panics
    /// If the step before was not completed: a programmer's error.
    pub fn plan_step(&mut self) -> StepPlan {
        assert!(!self.is_step_planned, "a planned step should be completed before the next one is planned");
        let running: Vec<Candidate> = self.running.iter().map(Sequence::candidate).collect();
        let waiting: Vec<Candidate> = self.waiting.iter().map(Sequence::candidate).collect();
        let budget = Budget {
            max_batched_tokens: self.config.max_batched_tokens,
            max_running: self.config.max_running,
            block_size: self.config.block_size,
            free_blocks: self.pools.iter().map(BlockPool::num_free).min().unwrap_or(0),
        };
        let schedule = scheduler::plan(&running, &waiting, budget);

        let mut plan = StepPlan::default();
        // The preempted are the last ones, lowest rank first: indices before them stay valid.
        for index in schedule.preempt {
            let mut sequence = self.running.remove(index);
            sequence.preempt();
            plan.preempted.push(sequence.id);
            insert(&mut self.waiting, sequence);
        }
        for share in schedule.run {
            give_share(&mut self.running[share.index], &self.pools, share, &mut plan);
        }
        let admitted: Vec<Sequence> = self.waiting.drain(..schedule.admit.len()).collect();
        for (mut sequence, share) in admitted.into_iter().zip(schedule.admit) {
            give_share(&mut sequence, &self.pools, share, &mut plan);
            insert(&mut self.running, sequence);
        }
        self.is_step_planned = !plan.is_empty();
        plan
    }

    /// Chooses a token for each row of logits.
    ///
    /// # Shapes
    /// `logits`: `[num_logits, vocab_size]`, row-major, in the order of [`StepPlan::wanting_logits`]; `masks`: one entry
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
        let num_logits = plan.wanting_logits().count();
        assert_eq!(logits.len(), num_logits * vocab_size, "logits should be [num_logits, vocab_size]");
        assert_eq!(masks.len(), num_logits, "masks should be [num_logits]");
        let rows = logits.chunks_exact(vocab_size).zip(masks);
        plan.wanting_logits().zip(rows).map(|(planned, (row, mask))| self.choose(planned.id, row, mask)).collect()
    }

    fn choose(&self, id: SequenceId, row: &[f32], mask: &Option<TokenMask>) -> Result<Sampled, SampleError> {
        let Some(sequence) = self.running.iter().find(|sequence| sequence.id == id) else {
            // Ended meanwhile: the token is thrown away by `complete`.
            return Ok(Sampled { token_id: 0, logprobs: None });
        };
        let params = &sequence.request.sampling;
        let seed = sequence_seed(params.seed, id.index);
        let draw = Draw { seed, position: sequence.num_generated() as u64 };
        sample(row, params, sequence.counts.as_ref(), mask.as_ref(), draw)
    }

    /// Takes in what a step computed: `sampled` in the order of [`StepPlan::wanting_logits`].
    ///
    /// Sequences that ended while the step was computed are left out. Blocks of ended sequences are free on return.
    pub fn complete(&mut self, plan: &StepPlan, sampled: Vec<Result<Sampled, SampleError>>) -> Vec<Event> {
        self.is_step_planned = false;
        self.retired.clear();
        let mut sampled = sampled.into_iter();
        let mut events = Vec::new();
        for planned in &plan.sequences {
            let outcome = if planned.wants_logits { sampled.next() } else { None };
            let Some(position) = self.running.iter().position(|sequence| sequence.id == planned.id) else { continue };
            let sequence = &mut self.running[position];
            sequence.num_computed = planned.context_len + planned.query.len();
            let Some(outcome) = outcome else { continue };
            let event = match outcome {
                Ok(sampled) => {
                    let finished = sequence.append(sampled.token_id, &self.config.eos_token_ids);
                    Event::Token { sequence: planned.id, sampled, finished }
                }
                Err(error) => Event::Failed { sequence: planned.id, error },
            };
            if !matches!(event, Event::Token { finished: None, .. }) {
                self.running.remove(position);
            }
            events.push(event);
        }
        events
    }
}

fn insert(sequences: &mut Vec<Sequence>, sequence: Sequence) {
    let position = sequences.partition_point(|other| other.rank < sequence.rank);
    sequences.insert(position, sequence);
}

fn give_share(sequence: &mut Sequence, pools: &[BlockPool], share: Share, plan: &mut StepPlan) {
    sequence.grow(pools, share.new_blocks);
    let start = plan.token_ids.len();
    let end_token = sequence.num_computed + share.num_tokens;
    plan.token_ids.extend_from_slice(&sequence.tokens[sequence.num_computed..end_token]);
    plan.sequences.push(PlannedSequence {
        id: sequence.id,
        query: start..plan.token_ids.len(),
        context_len: sequence.num_computed,
        block_tables: sequence.block_ids(),
        wants_logits: end_token == sequence.tokens.len(),
    });
}
