//! Random sets of models on random nodes, with users, accidents and crashes of the operator between any two writes,
//! against the pure planner. A checker that shares no arithmetic with it looks at every write and every second.
//!
//! `KINDLING_LEDGER_SETS` says how many sets (1000 unless set), `KINDLING_LEDGER_SEED` where the seeds begin, and with
//! `KINDLING_LEDGER_TRACE` every step is printed.

#![allow(clippy::print_stdout, reason = "the test says what it did, and on demand every step")]

mod chaos;
mod checker;
mod figures;
mod operator;
mod proof;
mod random;
mod world;

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Instant;

use figures::Figures;
use operator::Operator;
use world::World;

fn setting(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// One second of everything.
fn second(world: &mut World, operator: &mut Operator) {
    world.tick();
    checker::at_any_time(world);
    operator.operate(world);
    checker::at_any_time(world);
}

/// Who is first in the queue and could have memory does not wait longer than the rules allow, while nothing but users
/// interferes.
#[derive(Default)]
struct Head {
    key: String,
    since: u64,
}

impl Head {
    fn watch(&mut self, world: &mut World) {
        let first = checker::could_have(world).into_iter().next().unwrap_or_default();
        if first != self.key || world.disturbed_at >= self.since {
            (self.key, self.since) = (first, world.now + 1);
            return;
        }
        if !self.key.is_empty() {
            let waited = (world.now + 1).saturating_sub(self.since);
            world.figures.longest_head_wait = world.figures.longest_head_wait.max(waited);
            let limit = checker::longest_wait(world);
            assert!(waited <= limit, "{} is first in the queue and waits {waited} ms, longer than {limit}", self.key);
        }
    }
}

/// Without new requests and accidents, everybody who could have memory gets it.
fn becomes_quiet(world: &mut World, operator: &mut Operator) {
    chaos::calm(world);
    operator.dies_once_in = None;
    operator.out_until = 0;
    let models = world.asked.len() as u64 + 2;
    let limit = world.now + models * checker::longest_wait(world);
    let mut settled = 0;
    while settled < 10 {
        second(world, operator);
        chaos::users(world, None);
        settled = if checker::could_have(world).is_empty() { settled + 1 } else { 0 };
        assert!(world.now < limit, "these could have memory and wait for ever: {:?}", checker::could_have(world));
    }
}

fn run_set(seed: u64) -> Figures {
    let is_busy = seed.is_multiple_of(8);
    let mut world = if is_busy { chaos::busy(seed) } else { chaos::world(seed) };
    let disturbed_once_in = match world.random.between(0, 2) {
        0 => 10,
        1 => 60,
        _ => 400,
    };
    let requested_once_in = if is_busy { 2 } else { world.random.between(2, 40) };
    let dies_once_in = (!is_busy).then(|| world.random.between(4, 60));
    let mut operator = Operator::new(dies_once_in);
    let mut head = Head::default();
    for _ in 0..if is_busy { 900 } else { 400 } {
        chaos::users(&mut world, Some(requested_once_in));
        if !is_busy && world.random.once_in(disturbed_once_in) {
            chaos::disturb(&mut world);
        }
        second(&mut world, &mut operator);
        head.watch(&mut world);
    }
    becomes_quiet(&mut world, &mut operator);
    world.figures
}

#[test]
fn no_set_of_models_is_ever_over_committed_lost_or_left_waiting() {
    let (sets, first) = (setting("KINDLING_LEDGER_SETS", 1000), setting("KINDLING_LEDGER_SEED", 0));
    let started = Instant::now();
    let mut sum = Figures::default();
    for seed in first..first + sets {
        let figures = catch_unwind(AssertUnwindSafe(|| run_set(seed))).unwrap_or_else(|panic| {
            println!("KINDLING_LEDGER_SETS=1 KINDLING_LEDGER_SEED={seed} shows it again");
            resume_unwind(panic)
        });
        if figures.over_commitments.get() > 0 {
            println!("KINDLING_LEDGER_SETS=1 KINDLING_LEDGER_SEED={seed} shows it again");
        }
        sum.add(&figures);
    }
    println!("{sum}");
    println!("{:.1} s", started.elapsed().as_secs_f64());
    assert_eq!(sum.over_commitments.get(), 0, "a ledger promised more than its machine has");
    assert!(
        sets < 500 || sum.evictions > 0 && sum.adopted > 0 && sum.crashes > 0 && sum.timed_out > 0,
        "too little happened"
    );
}
