//! The state between steps: who runs, who waits, who holds which block.
//!
//! A caller repeats: [`Engine::plan_step`], compute, [`Engine::sample`], [`Engine::complete`].

mod complete;
mod plan;

use std::sync::Arc;

use crate::cache_groups::{CacheGroups, GroupConfig, GroupKind};
use crate::sample::{SampleError, Sampled};
use crate::sequence::Sequence;
use crate::{
    AddError, BlockHash, BlockId, BlockPool, ConfigError, Counters, EngineConfig, FinishReason, Load, Request,
    RequestId, SequenceId,
};

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

/// All requests of one model.
#[derive(Debug)]
pub struct Engine {
    config: EngineConfig,
    groups: CacheGroups,
    /// In order of rank, like `waiting`.
    running: Vec<Sequence>,
    waiting: Vec<Sequence>,
    /// Ended while a step was computed; the step may still write into their blocks.
    retired: Vec<Sequence>,
    is_step_planned: bool,
    num_arrivals: u64,
    num_steps: i64,
    counters: Counters,
}

impl Engine {
    /// An idle engine. The context is limited to what all blocks together can hold.
    ///
    /// # Errors
    /// [`ConfigError`] if it could never work.
    pub fn new(mut config: EngineConfig) -> Result<Self, ConfigError> {
        config.check()?;
        config.max_context = config.possible_context();
        let groups = CacheGroups::new(&config.groups, config.geometry());
        Ok(Self {
            config,
            groups,
            running: Vec::new(),
            waiting: Vec::new(),
            retired: Vec::new(),
            is_step_planned: false,
            num_arrivals: 0,
            num_steps: 0,
            counters: Counters::default(),
        })
    }

    /// Tokens that a sequence may have.
    pub fn max_context(&self) -> usize {
        self.config.max_context
    }

    /// Takes a request in; it waits until a step has room for it.
    ///
    /// # Errors
    /// [`AddError`] if it can never run, or not be kept waiting now.
    pub fn add(&mut self, mut request: Request) -> Result<(), AddError> {
        self.check(&request)?;
        if !self.config.prefix_cache {
            request.prefix_cache = None;
        }
        // When it is due: a level of priority is worth as many steps of waiting.
        let due = self.num_steps - i64::from(request.priority) * i64::from(self.config.aging_steps);
        let arrival = self.num_arrivals;
        self.num_arrivals += 1;
        let request = Arc::new(request);
        for index in 0..request.num_sequences {
            let (rank, max_context) = ((due, arrival, index), self.config.max_context);
            insert(&mut self.waiting, Sequence::new(&request, rank, max_context, self.config.speculation));
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
        let pools = &self.groups.pools;
        let blocks_total = pools.iter().map(BlockPool::num_blocks).sum();
        let blocks_free: usize = pools.iter().map(BlockPool::num_free).sum();
        let evictions = pools.iter().map(BlockPool::num_evictions).sum();
        Load {
            num_running: self.running.len(),
            num_waiting: self.waiting.len(),
            blocks_used: blocks_total - blocks_free,
            blocks_total,
            counters: Counters { evictions, ..self.counters },
        }
    }

    /// What the prefix cache has, as (index of the group, hash, block): for checks.
    pub fn cached_blocks(&self) -> Vec<(usize, BlockHash, BlockId)> {
        let of_group = |(group, _, pool): (usize, GroupKind, &BlockPool)| {
            pool.registered().into_iter().map(move |(hash, block)| (group, hash, block))
        };
        self.groups.iter().flat_map(of_group).collect()
    }

    /// The cache groups it was made with.
    pub fn groups(&self) -> &[GroupConfig] {
        &self.config.groups
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
}

fn insert(sequences: &mut Vec<Sequence>, sequence: Sequence) {
    let position = sequences.partition_point(|other| other.rank < sequence.rank);
    sequences.insert(position, sequence);
}
