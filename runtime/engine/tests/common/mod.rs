//! An engine with a toy model, and what must be true of it at every step.
#![allow(dead_code, reason = "each test uses some of it")]

mod model;

use std::collections::{BTreeMap, HashMap, HashSet};

use kindling_engine::{
    BlockId, CacheScope, Engine, EngineConfig, Event, FinishReason, GroupConfig, GroupKind, Request, RequestId,
    SamplingParams, SequenceId, StepPlan, TokenId,
};
pub use model::ToyModel;

pub const VOCAB_SIZE: usize = 32;
pub const EOS: TokenId = 3;
pub const BLOCK_SIZE: usize = 4;

pub fn group(kind: GroupKind, num_blocks: u32) -> GroupConfig {
    GroupConfig { kind, num_blocks }
}

/// Everything switched off, two plain groups.
pub fn config(num_blocks: u32) -> EngineConfig {
    EngineConfig {
        groups: vec![group(GroupKind::Full, num_blocks); 2],
        block_size: BLOCK_SIZE,
        max_context: 64,
        max_running: 4,
        max_waiting: 20,
        max_batched_tokens: 16,
        aging_steps: 20,
        prefix_cache: false,
        speculation: None,
        sampling_threads: 1,
        eos_token_ids: vec![EOS],
    }
}

pub fn hash(values: impl IntoIterator<Item = u64>) -> u64 {
    values
        .into_iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, value| (sum ^ value).wrapping_mul(0x0100_0000_01b3).rotate_left(17))
}

/// A small random number generator for the traces.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

pub type Outputs = BTreeMap<SequenceId, (Vec<TokenId>, Option<FinishReason>)>;

pub struct Bench {
    pub engine: Engine,
    pub config: EngineConfig,
    pub model: ToyModel,
    pub outputs: Outputs,
    pub num_steps: usize,
    /// Tokens computed, guesses included.
    pub num_tokens: usize,
}

impl Bench {
    pub fn new(config: EngineConfig) -> Self {
        let kinds = config.groups.iter().map(|group| group.kind).collect();
        Self {
            engine: Engine::new(config.clone()).unwrap(),
            model: ToyModel::new(kinds, config.block_size),
            config,
            outputs: Outputs::new(),
            num_steps: 0,
            num_tokens: 0,
        }
    }

    pub fn step(&mut self) -> StepPlan {
        let plan = self.engine.plan_step();
        self.num_steps += usize::from(!plan.is_empty());
        self.num_tokens += plan.token_ids.len();
        self.blocks_are_never_shared_unless_prefix_cached(&plan);
        self.a_window_holds_what_is_in_sight_and_little_more(&plan);
        self.states_are_never_shared(&plan);
        self.limits_are_kept(&plan);
        let logits = self.model.execute(&plan);
        let masks = vec![None; plan.logit_rows().count()];
        let sampled = self.engine.sample(&plan, &logits, VOCAB_SIZE, &masks);
        for event in self.engine.complete(&plan, sampled) {
            let Event::Token { sequence, sampled, finished } = event else { panic!("{event:?}") };
            let output = self.outputs.entry(sequence).or_default();
            assert!(output.1.is_none(), "{sequence} goes on after its end");
            output.0.push(sampled.token_id);
            output.1 = finished;
        }
        self.hash_of_a_cached_block_matches_its_tokens();
        plan
    }

    pub fn run_to_the_end(&mut self) {
        for _ in 0..10_000 {
            if self.engine.is_idle() {
                return;
            }
            assert!(!self.step().is_empty(), "there is work, but the step is empty");
        }
        panic!("requests do not end");
    }

    fn blocks_are_never_shared_unless_prefix_cached(&self, plan: &StepPlan) {
        let cached: HashSet<_> =
            self.engine.cached_blocks().into_iter().map(|(group, _, block)| (group, block)).collect();
        let mut seen: HashMap<(usize, BlockId), bool> = HashMap::new();
        for sequence in &plan.sequences {
            for (group, table) in sequence.block_tables.iter().enumerate() {
                for (index, block) in table.iter().enumerate().filter(|(_, block)| **block != BlockId::NULL) {
                    let is_written = (index + 1) * BLOCK_SIZE > sequence.context_len
                        || self.config.groups[group].kind == GroupKind::Recurrent;
                    assert!(!(is_written && cached.contains(&(group, *block))), "a cached block is written");
                    if let Some(was_written) = seen.insert((group, *block), is_written) {
                        assert!(!was_written && !is_written, "{block:?} of group {group} is shared and written");
                        assert!(cached.contains(&(group, *block)), "{block:?} of group {group} is shared");
                    }
                }
            }
        }
    }

    fn a_window_holds_what_is_in_sight_and_little_more(&self, plan: &StepPlan) {
        for sequence in &plan.sequences {
            let end = sequence.context_len + sequence.query.len();
            // Blocks that were taken for wrong guesses stay for the tokens that come instead.
            let most = (end + self.config.speculation.map_or(0, |it| it.max_draft_tokens)).div_ceil(BLOCK_SIZE);
            for (config, table) in self.config.groups.iter().zip(&sequence.block_tables) {
                let live = table.iter().filter(|block| **block != BlockId::NULL).count();
                let is_enough = (end.div_ceil(BLOCK_SIZE)..=most).contains(&table.len());
                match config.kind {
                    GroupKind::Full => assert!(is_enough && live == table.len(), "{live} of {table:?} for {end}"),
                    GroupKind::Window { window } => {
                        let hidden = sequence.context_len.saturating_sub(window) / BLOCK_SIZE;
                        assert!(is_enough && table[..hidden].iter().all(|block| *block == BlockId::NULL));
                        assert_eq!(live, table.len() - hidden);
                    }
                    GroupKind::Recurrent => assert_eq!((live, table.len()), (1, 1)),
                }
            }
        }
    }

    fn states_are_never_shared(&self, plan: &StepPlan) {
        let mut written = HashSet::new();
        for (group, _) in self.config.groups.iter().enumerate().filter(|(_, g)| g.kind == GroupKind::Recurrent) {
            for sequence in &plan.sequences {
                assert!(written.insert((group, sequence.block_tables[group][0])), "a state has two owners");
            }
        }
        for copy in &plan.copies_after {
            assert!(written.insert((copy.group, copy.to)), "a state that is in use is written over");
        }
        for copy in &plan.copies_before {
            assert!(!written.contains(&(copy.group, copy.from)), "a state is restored from one that is written");
        }
    }

    fn limits_are_kept(&self, plan: &StepPlan) {
        assert!(plan.token_ids.len() <= self.config.max_batched_tokens);
        assert!(plan.sequences.len() <= self.config.max_running);
        let num_drafts: usize = plan.sequences.iter().map(|sequence| sequence.num_drafts).sum();
        assert!(num_drafts <= self.config.speculation.map_or(0, |speculation| speculation.max_draft_tokens));
    }

    fn hash_of_a_cached_block_matches_its_tokens(&self) {
        for (group, hash, block) in self.engine.cached_blocks() {
            assert!(
                self.model.has(group, hash, block, &scopes()),
                "{block:?} of group {group} is not what it is called"
            );
        }
    }
}

pub fn scopes() -> Vec<CacheScope> {
    let scope = |salt: &str, key: &[&str]| CacheScope {
        salt: salt.to_owned(),
        extra_keys: key.iter().map(|key| (*key).to_owned()).collect(),
    };
    vec![scope("", &[]), scope("tenant", &[]), scope("", &["image"])]
}

/// Prompts have beginnings in common; some end at the border of a block.
pub fn random_request(id: u64, dice: &mut Dice) -> Request {
    let document = dice.below(3);
    let (common, own) = (dice.below(28), dice.below(12));
    let mut prompt: Vec<TokenId> = (0..common).map(|index| ((index * 11 + document * 5) % 29) as TokenId).collect();
    prompt.extend((0..own).map(|_| dice.below(4) as TokenId));
    if prompt.is_empty() {
        prompt.push(1);
    }
    let temperature = if dice.below(2) == 0 { 0.0 } else { 0.9 };
    Request {
        id: RequestId(id),
        prompt: prompt.into(),
        num_sequences: 1 + dice.below(2) as u32,
        max_tokens: 1 + dice.below(40) as usize,
        stop_token_ids: if dice.below(3) == 0 { vec![7] } else { Vec::new() },
        ignore_eos: dice.below(2) == 0,
        priority: dice.below(3) as i32,
        prefix_cache: scopes().get(dice.below(12) as usize % 5).cloned(),
        speculate: dice.below(4) > 0,
        sampling: SamplingParams {
            temperature,
            seed: dice.below(1000),
            frequency_penalty: if dice.below(4) == 0 { 0.5 } else { 0.0 },
            ..SamplingParams::default()
        },
    }
}

/// What the request gives when it has the engine to itself, blocks in plenty, and nothing cached or guessed.
pub fn alone(request: &Request, groups: &[GroupConfig]) -> Outputs {
    let groups = groups.iter().map(|config| group(config.kind, 1000)).collect();
    let mut bench = Bench::new(EngineConfig { groups, ..config(1000) });
    bench.engine.add(request.clone()).unwrap();
    bench.run_to_the_end();
    assert_eq!(bench.engine.load().counters.preemptions, 0);
    bench.outputs
}

pub fn plain_request(id: u64, prompt_len: usize, max_tokens: usize) -> Request {
    Request {
        id: RequestId(id),
        prompt: (0..prompt_len).map(|index| ((index as u64 * 7 + id) % 31) as TokenId).collect(),
        num_sequences: 1,
        max_tokens,
        stop_token_ids: Vec::new(),
        ignore_eos: true,
        priority: 0,
        prefix_cache: Some(CacheScope::default()),
        speculate: true,
        sampling: SamplingParams::default(),
    }
}

pub fn first_of(request: u64) -> SequenceId {
    SequenceId { request: RequestId(request), index: 0 }
}
