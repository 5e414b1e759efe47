//! Random traces over the engine with a fake model that reads its context back out of the blocks.
//!
//! The model's next token is a hash of all tokens before it, as found in the cache: a block that is shared, lost or
//! reused too early changes the output.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic and print")]

use std::collections::{BTreeMap, HashMap, HashSet};

use kindling_engine::{
    Engine, EngineConfig, Event, FinishReason, Request, RequestId, SamplingParams, SequenceId, StepPlan, TokenId,
    TokenMask,
};

const VOCAB_SIZE: usize = 32;
const EOS: TokenId = 3;

fn config(num_blocks: u32) -> EngineConfig {
    EngineConfig {
        num_cache_groups: 2,
        num_blocks,
        block_size: 4,
        max_context: 64,
        max_running: 4,
        max_waiting: 20,
        max_batched_tokens: 16,
        eos_token_ids: vec![EOS],
    }
}

fn hash(values: impl IntoIterator<Item = u64>) -> u64 {
    values
        .into_iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, value| (sum ^ value).wrapping_mul(0x0100_0000_01b3).rotate_left(17))
}

/// A small random number generator for the traces.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Keeps the tokens written to each slot of each block.
#[derive(Default)]
struct FakeModel {
    slots: HashMap<(usize, u32, usize), TokenId>,
}

impl FakeModel {
    fn execute(&mut self, plan: &StepPlan, block_size: usize) -> Vec<f32> {
        let mut logits = Vec::new();
        for sequence in &plan.sequences {
            let length = sequence.context_len + sequence.query.len();
            for (group, table) in sequence.block_tables.iter().enumerate() {
                assert!(table.len() * block_size >= length, "a step should have all its blocks");
                for (offset, token) in plan.token_ids[sequence.query.clone()].iter().enumerate() {
                    let position = sequence.context_len + offset;
                    self.slots.insert((group, table[position / block_size].0, position % block_size), *token);
                }
            }
            if sequence.wants_logits {
                let context: Vec<u64> =
                    (0..length)
                        .flat_map(|position| {
                            sequence.block_tables.iter().enumerate().map(move |(group, table)| {
                                (group, table[position / block_size].0, position % block_size)
                            })
                        })
                        .map(|slot| u64::from(self.slots[&slot]))
                        .collect();
                let key = hash(context);
                logits.extend((0..VOCAB_SIZE as u64).map(|token| (hash([key, token]) % 1000) as f32 / 250.0));
            }
        }
        logits
    }
}

fn unmasked(plan: &StepPlan) -> Vec<Option<TokenMask>> {
    vec![None; plan.wanting_logits().count()]
}

type Outputs = BTreeMap<SequenceId, (Vec<TokenId>, Option<FinishReason>)>;

struct Bench {
    engine: Engine,
    model: FakeModel,
    block_size: usize,
    outputs: Outputs,
    num_preemptions: usize,
}

impl Bench {
    fn new(config: EngineConfig) -> Self {
        let block_size = config.block_size;
        let (model, outputs) = (FakeModel::default(), Outputs::new());
        Self { engine: Engine::new(config), model, block_size, outputs, num_preemptions: 0 }
    }

    fn step(&mut self) -> StepPlan {
        let plan = self.engine.plan_step();
        check_blocks_are_not_shared(&plan);
        self.num_preemptions += plan.preempted.len();
        let logits = self.model.execute(&plan, self.block_size);
        let sampled = self.engine.sample(&plan, &logits, VOCAB_SIZE, &unmasked(&plan));
        for event in self.engine.complete(&plan, sampled) {
            let Event::Token { sequence, sampled, finished } = event else { panic!("{event:?}") };
            let output = self.outputs.entry(sequence).or_default();
            assert!(output.1.is_none(), "{sequence} goes on after its end");
            output.0.push(sampled.token_id);
            output.1 = finished;
        }
        plan
    }

    fn run_to_the_end(&mut self) {
        for _ in 0..10_000 {
            if self.engine.is_idle() {
                return;
            }
            assert!(!self.step().is_empty(), "there is work, but the step is empty");
        }
        panic!("requests do not end");
    }
}

fn check_blocks_are_not_shared(plan: &StepPlan) {
    let mut seen = HashSet::new();
    for sequence in &plan.sequences {
        for (group, table) in sequence.block_tables.iter().enumerate() {
            for block in table {
                assert!(seen.insert((group, *block)), "block {block:?} of group {group} is shared");
            }
        }
    }
}

fn random_request(id: u64, dice: &mut Dice) -> Request {
    let prompt_len = 1 + dice.below(30);
    let temperature = if dice.below(2) == 0 { 0.0 } else { 0.9 };
    Request {
        id: RequestId(id),
        prompt: (0..prompt_len).map(|_| dice.below(VOCAB_SIZE as u64) as TokenId).collect(),
        num_sequences: 1 + dice.below(2) as u32,
        max_tokens: 1 + dice.below(40) as usize,
        stop_token_ids: if dice.below(3) == 0 { vec![7] } else { Vec::new() },
        ignore_eos: dice.below(2) == 0,
        priority: dice.below(2) as i32,
        sampling: SamplingParams {
            temperature,
            seed: dice.below(1000),
            frequency_penalty: if dice.below(3) == 0 { 0.5 } else { 0.0 },
            ..SamplingParams::default()
        },
    }
}

/// What the request gives when it has the engine to itself and blocks in plenty.
fn alone(request: &Request) -> Outputs {
    let mut bench = Bench::new(config(1000));
    bench.engine.add(request.clone()).unwrap();
    bench.run_to_the_end();
    assert_eq!(bench.num_preemptions, 0);
    bench.outputs
}

fn plain_request(id: u64, prompt_len: usize, max_tokens: usize) -> Request {
    Request {
        id: RequestId(id),
        prompt: (0..prompt_len).map(|index| ((index as u64 * 7 + id) % 31) as TokenId).collect(),
        num_sequences: 1,
        max_tokens,
        stop_token_ids: Vec::new(),
        ignore_eos: true,
        priority: 0,
        sampling: SamplingParams::default(),
    }
}

#[test]
fn blocks_are_never_shared() {
    // `step` checks it within steps, the fake model across steps: it reads tokens back.
    for seed in 0..30 {
        let mut dice = Dice(seed);
        let mut bench = Bench::new(config(18));
        for id in 0..12 {
            bench.engine.add(random_request(id, &mut dice)).unwrap_or_else(|error| panic!("{error}"));
            for _ in 0..dice.below(6) {
                bench.step();
            }
        }
        bench.run_to_the_end();
    }
}

#[test]
fn every_request_ends_and_emits_what_it_emits_alone() {
    let mut num_preemptions = 0;
    for seed in 0..40 {
        let mut dice = Dice(1000 + seed);
        let mut bench = Bench::new(config(17));
        let mut expected = Outputs::new();
        for id in 0..10 {
            let request = random_request(id, &mut dice);
            expected.extend(alone(&request));
            bench.engine.add(request).unwrap();
            for _ in 0..dice.below(4) {
                bench.step();
            }
        }
        bench.run_to_the_end();
        assert_eq!(bench.outputs, expected, "trace {seed}");
        assert!(bench.outputs.values().all(|(_, finished)| finished.is_some()));
        assert_eq!(bench.engine.load().blocks_used, 0);
        num_preemptions += bench.num_preemptions;
    }
    assert!(num_preemptions > 50, "the traces should be tight enough to preempt: {num_preemptions}");
}

#[test]
fn a_preempted_request_emits_the_same_tokens() {
    let mut bench = Bench::new(config(16));
    for id in 0..3 {
        let mut request = plain_request(id, 12, 40);
        request.sampling.temperature = 1.0;
        request.sampling.frequency_penalty = 0.7;
        bench.engine.add(request).unwrap();
    }
    bench.run_to_the_end();
    assert!(bench.num_preemptions > 0);
    for id in 0..3 {
        let mut request = plain_request(id, 12, 40);
        request.sampling.temperature = 1.0;
        request.sampling.frequency_penalty = 0.7;
        let sequence = SequenceId { request: RequestId(id), index: 0 };
        assert_eq!(bench.outputs[&sequence], alone(&request)[&sequence]);
    }
}

#[test]
fn no_block_is_lost_after_aborts() {
    for seed in 0..40 {
        let mut dice = Dice(77 + seed);
        let mut bench = Bench::new(config(18));
        for id in 0..10 {
            bench.engine.add(random_request(id, &mut dice)).unwrap();
            for _ in 0..dice.below(4) {
                bench.step();
            }
            if dice.below(2) == 0 {
                bench.engine.abort(RequestId(dice.below(id + 1)));
            }
            if dice.below(4) == 0 {
                bench.engine.stop(SequenceId { request: RequestId(dice.below(id + 1)), index: 0 });
            }
        }
        for id in 0..10 {
            bench.engine.abort(RequestId(id));
            assert!(!bench.engine.abort(RequestId(id)), "the second abort finds nothing");
        }
        let load = bench.engine.load();
        assert_eq!((load.num_running, load.num_waiting, load.blocks_used), (0, 0, 0));
        assert_eq!(load.blocks_total, 36);
    }
}

#[test]
fn blocks_of_a_request_aborted_during_a_step_stay_until_it_is_computed() {
    let mut engine = Engine::new(config(16));
    engine.add(plain_request(1, 10, 5)).unwrap();
    let plan = engine.plan_step();
    assert!(engine.abort(RequestId(1)));
    assert_eq!(engine.load().blocks_used, 6);
    let sampled = engine.sample(&plan, &[0.5; VOCAB_SIZE], VOCAB_SIZE, &unmasked(&plan));
    assert!(engine.complete(&plan, sampled).is_empty());
    assert_eq!(engine.load().blocks_used, 0);
    assert!(engine.plan_step().is_empty());
}

#[test]
fn running_requests_are_scheduled_before_waiting_ones() {
    let mut bench = Bench::new(config(100));
    bench.engine.add(plain_request(1, 5, 30)).unwrap();
    bench.step();
    bench.engine.add(plain_request(2, 40, 5)).unwrap();
    for _ in 0..3 {
        let plan = bench.step();
        assert_eq!(plan.sequences[0].id.request, RequestId(1));
        assert_eq!(plan.sequences[0].query.len(), 1);
        assert!(plan.token_ids.len() <= 16);
    }
}

#[test]
fn nobody_starves_while_requests_keep_coming() {
    let mut bench = Bench::new(config(16));
    bench.engine.add(plain_request(0, 40, 20)).unwrap();
    let first = SequenceId { request: RequestId(0), index: 0 };
    let mut steps = 0;
    for id in 1.. {
        // Small ones arrive for as long as the large one runs.
        let _ = bench.engine.add(plain_request(id, 3, 6));
        bench.step();
        steps += 1;
        if bench.outputs.get(&first).is_some_and(|(_, finished)| finished.is_some()) {
            break;
        }
        assert!(steps < 40, "the first request starves");
    }
}

#[test]
fn the_queue_is_bounded_and_the_refusal_has_counts() {
    let mut bench = Bench::new(EngineConfig { max_running: 2, max_waiting: 1, ..config(100) });
    for id in 0..3 {
        bench.engine.add(plain_request(id, 3, 6)).unwrap();
    }
    bench.step();
    let error = bench.engine.add(plain_request(9, 3, 6)).unwrap_err();
    assert_eq!(error.to_string(), "queue is full: 2 sequences are running, 1 are waiting, 1 may wait");
    bench.run_to_the_end();
    bench.engine.add(plain_request(9, 3, 6)).unwrap();
}

#[test]
fn requests_that_can_never_run_are_refused() {
    let mut engine = Engine::new(config(8));
    assert_eq!(engine.max_context(), 32, "limited by the blocks");
    let refused = |engine: &mut Engine, request| engine.add(request).unwrap_err().to_string();
    assert_eq!(refused(&mut engine, plain_request(1, 0, 1)), "prompt is empty");
    let too_long = refused(&mut engine, plain_request(1, 32, 1));
    assert_eq!(too_long, "prompt has 32 tokens, the maximum context length is 32 tokens");
    assert_eq!(refused(&mut engine, plain_request(1, 3, 0)), "max_tokens must be at least 1");
    engine.add(plain_request(1, 3, 1)).unwrap();
    assert_eq!(refused(&mut engine, plain_request(1, 3, 1)), "request id 1 is in use");
}

#[test]
fn max_tokens_is_clamped_to_the_context() {
    let mut bench = Bench::new(config(8));
    bench.engine.add(plain_request(1, 30, 100)).unwrap();
    bench.run_to_the_end();
    let (tokens, finished) = &bench.outputs[&SequenceId { request: RequestId(1), index: 0 }];
    assert_eq!((tokens.len(), *finished), (2, Some(FinishReason::Length)));
}

#[test]
fn a_stop_token_ends_a_sequence_and_is_named() {
    let greedy = plain_request(1, 5, 30);
    let sequence = SequenceId { request: RequestId(1), index: 0 };
    let stop = alone(&greedy)[&sequence].0[4];
    let mut bench = Bench::new(config(100));
    bench.engine.add(Request { stop_token_ids: vec![stop], ..greedy }).unwrap();
    bench.run_to_the_end();
    let (tokens, finished) = &bench.outputs[&sequence];
    assert_eq!(*finished, Some(FinishReason::Stop { token_id: Some(stop) }));
    assert!(tokens.len() <= 5 && tokens.last() == Some(&stop));
}

#[test]
fn a_sequence_without_a_number_among_its_logits_fails_alone() {
    let mut engine = Engine::new(config(100));
    engine.add(plain_request(1, 3, 5)).unwrap();
    engine.add(plain_request(2, 3, 5)).unwrap();
    let plan = engine.plan_step();
    let mut logits = vec![f32::NAN; VOCAB_SIZE];
    logits.extend([1.0; VOCAB_SIZE]);
    let sampled = engine.sample(&plan, &logits, VOCAB_SIZE, &unmasked(&plan));
    let events = engine.complete(&plan, sampled);
    assert!(matches!(events[0], Event::Failed { .. }));
    assert!(matches!(events[1], Event::Token { .. }));
    assert_eq!(engine.load().num_running, 1);
}
