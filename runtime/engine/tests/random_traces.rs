//! Random traces: requests come, end, are aborted and preempted, in engines of several kinds; what must stay true is
//! checked at every step by [`common::Bench`]. `KINDLING_SOAK_SECONDS` makes them as long as wanted.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic and print")]

mod common;

use std::time::{Duration, Instant};

use common::{Bench, Dice, Outputs, alone, config, group, plain_request, random_request};
use kindling_engine::{Counters, EngineConfig, GroupKind, RequestId, SequenceId, Speculation};

const WINDOW: GroupKind = GroupKind::Window { window: 9 };

/// Engines so small that requests get in each other's way.
fn setups() -> Vec<EngineConfig> {
    let speculation = Some(Speculation { max_draft_tokens: 5, min_match: 2 });
    let windowed = vec![group(GroupKind::Full, 18), group(WINDOW, 9)];
    let recurrent = vec![group(GroupKind::Full, 18), group(GroupKind::Recurrent, 6)];
    let all = vec![group(WINDOW, 10), group(GroupKind::Recurrent, 5), group(GroupKind::Full, 17)];
    vec![
        config(17),
        EngineConfig { prefix_cache: true, ..config(17) },
        EngineConfig { prefix_cache: true, ..config(40) },
        EngineConfig { speculation, ..config(17) },
        EngineConfig { prefix_cache: true, speculation, ..config(20) },
        EngineConfig { groups: windowed.clone(), ..config(0) },
        EngineConfig { groups: windowed, prefix_cache: true, speculation, ..config(0) },
        EngineConfig { groups: recurrent, prefix_cache: true, ..config(0) },
        EngineConfig { groups: all, prefix_cache: true, ..config(0) },
    ]
}

/// Runs traces with every seed from `first_seed` on: at least `count`, and more while the soak lasts.
fn for_each_seed(first_seed: u64, count: u64, mut check: impl FnMut(u64)) {
    let soak = std::env::var("KINDLING_SOAK_SECONDS").ok().map(|text| text.parse().unwrap());
    let (started, soak) = (Instant::now(), Duration::from_secs(soak.unwrap_or(0)));
    let mut seed = first_seed;
    while seed < first_seed + count || started.elapsed() < soak {
        check(seed);
        seed += 1;
    }
    if !soak.is_zero() {
        println!("{} traces", seed - first_seed);
    }
}

fn add(left: &mut Counters, right: Counters) {
    left.prefix_cache_hits += right.prefix_cache_hits;
    left.evictions += right.evictions;
    left.preemptions += right.preemptions;
    left.accepted_tokens += right.accepted_tokens;
    left.draft_tokens += right.draft_tokens;
}

#[test]
fn every_request_ends_with_what_it_gives_alone() {
    for (index, setup) in setups().into_iter().enumerate() {
        let mut counters = Counters::default();
        for_each_seed(1000, 25, |seed| {
            let mut dice = Dice(seed);
            let mut bench = Bench::new(setup.clone());
            let mut expected = Outputs::new();
            for id in 0..10 {
                let request = random_request(id, &mut dice);
                expected.extend(alone(&request, &setup.groups));
                bench.engine.add(request).unwrap();
                for _ in 0..dice.below(8) {
                    bench.step();
                }
            }
            bench.run_to_the_end();
            assert_eq!(bench.outputs, expected, "setup {index}, trace {seed}");
            assert!(bench.outputs.values().all(|(_, finished)| finished.is_some()));
            assert_eq!(bench.engine.load().blocks_used, 0);
            add(&mut counters, bench.engine.load().counters);
        });
        println!("setup {index}: {counters:?}");
        // A trace in which nothing happens shows nothing.
        let is_tight = setup.groups[0].num_blocks < 30;
        assert!(!is_tight || counters.preemptions > 2, "setup {index}: {counters:?}");
        assert_eq!(setup.prefix_cache, counters.prefix_cache_hits > 300, "setup {index}: {counters:?}");
        assert_eq!(setup.prefix_cache, counters.evictions > 100, "setup {index}: {counters:?}");
        assert_eq!(setup.speculation.is_some(), counters.accepted_tokens > 20, "setup {index}: {counters:?}");
    }
}

#[test]
fn no_block_is_lost_after_aborts() {
    for setup in setups() {
        let num_blocks: u32 = setup.groups.iter().map(|group| group.num_blocks).sum();
        for_each_seed(77, 15, |seed| {
            let mut dice = Dice(seed);
            let mut bench = Bench::new(setup.clone());
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
                if dice.below(4) == 0 {
                    abort_during_a_step(&mut bench, RequestId(dice.below(id + 1)));
                }
            }
            for id in 0..10 {
                bench.engine.abort(RequestId(id));
                assert!(!bench.engine.abort(RequestId(id)), "the second abort finds nothing");
            }
            let load = bench.engine.load();
            assert_eq!((load.num_running, load.num_waiting, load.blocks_used), (0, 0, 0));
            assert_eq!(load.blocks_total, num_blocks as usize);
        });
    }
}

fn abort_during_a_step(bench: &mut Bench, request: RequestId) {
    let plan = bench.engine.plan_step();
    bench.engine.abort(request);
    let logits = bench.model.execute(&plan);
    let masks = vec![None; plan.logit_rows().count()];
    let sampled = bench.engine.sample(&plan, &logits, common::VOCAB_SIZE, &masks);
    for event in bench.engine.complete(&plan, sampled) {
        let kindling_engine::Event::Token { sequence, .. } = event else { panic!("{event:?}") };
        assert_ne!(sequence.request, request, "an aborted request goes on");
    }
}

#[test]
fn a_preempted_requests_output_is_unchanged() {
    for prefix_cache in [false, true] {
        let setup = EngineConfig { prefix_cache, ..config(16) };
        let mut bench = Bench::new(setup.clone());
        let request = |id| {
            let mut request = plain_request(id, 12, 40);
            request.sampling.temperature = 1.0;
            request.sampling.frequency_penalty = 0.7;
            request
        };
        (0..3).for_each(|id| bench.engine.add(request(id)).unwrap());
        bench.run_to_the_end();
        assert!(bench.engine.load().counters.preemptions > 0);
        for id in 0..3 {
            assert_eq!(bench.outputs[&common::first_of(id)], alone(&request(id), &setup.groups)[&common::first_of(id)]);
        }
    }
}

/// Steps until the request has ended while others like `other` keep coming, one a step.
fn steps_to_end(bench: &mut Bench, request: u64, priority: i32) -> usize {
    for id in 1000.. {
        // The queue is full at times: so it would be for a client.
        let _ = bench.engine.add(kindling_engine::Request { priority, ..plain_request(id, 3, 6) });
        bench.step();
        let output = bench.outputs.get(&common::first_of(request));
        if output.is_some_and(|(_, finished)| finished.is_some()) {
            return bench.num_steps;
        }
        assert!(bench.num_steps < 2000, "request {request} starves");
    }
    unreachable!("the range has no end")
}

#[test]
fn nobody_starves() {
    // One of the same priority is overtaken by nobody; a lower one only by those of the steps that its priority costs.
    let mut needed = Vec::new();
    for priority in [0, 1, 3] {
        let mut bench = Bench::new(config(16));
        bench.engine.add(plain_request(0, 40, 20)).unwrap();
        needed.push(steps_to_end(&mut bench, 0, priority));
    }
    println!("steps to the end behind priorities 0, 1, 3: {needed:?}");
    assert!(needed[0] < 40, "{needed:?}");
    assert!(needed[0] < needed[1] && needed[1] < needed[2], "priorities should matter: {needed:?}");
    // 20 steps a level, and the time that the 24 who have come by then and fit the queue need at most.
    assert!(needed[1] < 20 + 100 && needed[2] < 60 + 100, "{needed:?}");
}
