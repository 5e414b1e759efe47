//! Single requests: what is refused, what ends them, what happens to them during a step.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Bench, VOCAB_SIZE, alone, config, first_of, group, plain_request};
use kindling_engine::{
    ConfigError, Engine, EngineConfig, Event, FinishReason, GroupKind, Request, RequestId, Speculation, TokenMask,
};

#[test]
fn blocks_of_a_request_aborted_during_a_step_stay_until_it_is_computed() {
    let mut engine = Engine::new(config(16)).unwrap();
    engine.add(plain_request(1, 10, 5)).unwrap();
    let plan = engine.plan_step();
    assert!(engine.abort(RequestId(1)));
    assert_eq!(engine.load().blocks_used, 6);
    let sampled = engine.sample(&plan, &[0.5; VOCAB_SIZE], VOCAB_SIZE, &[None]);
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
    let mut engine = Engine::new(config(8)).unwrap();
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
fn engines_that_could_never_work_are_refused() {
    let refused = |config: EngineConfig| Engine::new(config).unwrap_err().to_string();
    assert_eq!(refused(config(0)), "number of blocks of each cache group must be at least 1");
    assert_eq!(refused(EngineConfig { groups: Vec::new(), ..config(1) }), "number of cache groups must be at least 1");
    let speculation = Some(Speculation { max_draft_tokens: 4, min_match: 0 });
    assert_eq!(refused(EngineConfig { speculation, ..config(1) }), "min match of speculation must be at least 1");
    let groups = vec![group(GroupKind::Full, 8), group(GroupKind::Recurrent, 8)];
    let speculation = Some(Speculation { max_draft_tokens: 4, min_match: 2 });
    let error = Engine::new(EngineConfig { groups, speculation, ..config(1) }).unwrap_err();
    assert_eq!(error, ConfigError::SpeculationWithRecurrentGroup);
}

#[test]
fn a_small_window_pool_holds_a_long_context_and_a_tiny_one_limits_it() {
    let context = |num_blocks| {
        let groups = vec![group(GroupKind::Full, 100), group(GroupKind::Window { window: 8 }, num_blocks)];
        Engine::new(EngineConfig { groups, max_context: 400, ..config(1) }).unwrap().max_context()
    };
    // 8 tokens of window and 16 of a step touch 7 blocks at most.
    assert_eq!((context(7), context(6)), (400, 24));
}

#[test]
fn max_tokens_is_clamped_to_the_context() {
    let mut bench = Bench::new(config(8));
    bench.engine.add(plain_request(1, 30, 100)).unwrap();
    bench.run_to_the_end();
    let (tokens, finished) = &bench.outputs[&first_of(1)];
    assert_eq!((tokens.len(), *finished), (2, Some(FinishReason::Length)));
}

#[test]
fn a_stop_token_ends_a_sequence_and_is_named() {
    let greedy = plain_request(1, 5, 30);
    let stop = alone(&greedy, &config(1).groups)[&first_of(1)].0[4];
    let mut bench = Bench::new(config(100));
    bench.engine.add(Request { stop_token_ids: vec![stop], ..greedy }).unwrap();
    bench.run_to_the_end();
    let (tokens, finished) = &bench.outputs[&first_of(1)];
    assert_eq!(*finished, Some(FinishReason::Stop { token_id: Some(stop) }));
    assert!(tokens.len() <= 5 && tokens.last() == Some(&stop));
}

#[test]
fn a_sequence_without_a_number_among_its_logits_fails_alone() {
    let mut engine = Engine::new(EngineConfig { prefix_cache: true, ..config(100) }).unwrap();
    engine.add(plain_request(1, 6, 5)).unwrap();
    engine.add(plain_request(2, 6, 5)).unwrap();
    let plan = engine.plan_step();
    let mut logits = vec![f32::NAN; VOCAB_SIZE];
    logits.extend([1.0; VOCAB_SIZE]);
    let sampled = engine.sample(&plan, &logits, VOCAB_SIZE, &[None, None]);
    let events = engine.complete(&plan, sampled);
    assert!(matches!(events[0], Event::Failed { .. }));
    assert!(matches!(events[1], Event::Token { .. }));
    assert_eq!(engine.load().num_running, 1);
    assert_eq!(engine.cached_blocks().len(), 2, "what the failed one computed is not kept");
}

#[test]
fn a_mask_decides_for_its_own_row() {
    let mut engine = Engine::new(config(100)).unwrap();
    engine.add(plain_request(1, 3, 5)).unwrap();
    engine.add(plain_request(2, 3, 5)).unwrap();
    let plan = engine.plan_step();
    let mut logits = vec![0.0; 2 * VOCAB_SIZE];
    (logits[5], logits[VOCAB_SIZE + 5]) = (1.0, 1.0);
    let mask = TokenMask::new(vec![1_u32 << 9]);
    let sampled = engine.sample(&plan, &logits, VOCAB_SIZE, &[None, Some(mask)]);
    let tokens: Vec<_> = sampled.into_iter().map(|sampled| sampled.unwrap().token_id).collect();
    assert_eq!(tokens, [5, 9]);
}

#[test]
fn threads_choose_the_same_tokens_in_the_same_order() {
    const LARGE: usize = 300_000;
    let chosen = |sampling_threads| {
        let mut engine = Engine::new(EngineConfig { sampling_threads, ..config(100) }).unwrap();
        for id in 0..4 {
            let mut request = plain_request(id, 3, 5);
            request.sampling.temperature = 1.0;
            request.sampling.seed = 7 + id;
            engine.add(request).unwrap();
        }
        let plan = engine.plan_step();
        // Ended while the step was computed.
        assert!(engine.abort(RequestId(2)));
        let logits: Vec<f32> = (0..4 * LARGE).map(|index| (index % 1009) as f32 / 100.0).collect();
        let sampled = engine.sample(&plan, &logits, LARGE, &[None, None, None, None]);
        sampled.into_iter().map(|sampled| sampled.unwrap().token_id).collect::<Vec<_>>()
    };
    let alone = chosen(1);
    assert_eq!((alone.len(), alone[2]), (4, 0));
    assert!(alone[0] != alone[1] && alone[1] != alone[3], "{alone:?}");
    for threads in [2, 3, 16] {
        assert_eq!(chosen(threads), alone, "{threads} threads");
    }
}
