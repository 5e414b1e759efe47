//! Series of `MemAvailable` on a node with a floor of 8 GiB, replayed second by second.
//!
//! Made up, each after something that was seen on machines whose GPU shares the memory: a load that takes tens of GiB
//! within seconds, a killed server whose memory comes back after most of a minute, a neighbour that grows.

use super::*;

const FLOORS: Floors = Floors::above_gib(8);

impl Floors {
    const fn above_gib(run: u64) -> Self {
        Self { start: Bytes::gib(run * 10 / 8), run: Bytes::gib(run) }
    }
}

/// From one available figure to another in so many seconds.
struct Leg(u64, f64, f64);

#[derive(Debug, PartialEq)]
enum Seen {
    Pressure(Pressure),
    Taken(u64),
}

use Seen::{Pressure as P, Taken};

fn gib(number: f64) -> Bytes {
    Bytes((number * (1_u64 << 30) as f64) as u64)
}

fn candidate(grant: u64, gib: u64, priority: i32, may_leave: bool) -> Candidate {
    Candidate { grant, bytes: Bytes::gib(gib), priority, may_leave }
}

/// Replays legs one after the other; what was taken is no candidate any more. Says what happened in which second.
fn replay(legs: &[Leg], mut candidates: Vec<Candidate>) -> Vec<(u64, Seen)> {
    let mut watch = Watch::new(FLOORS);
    let (mut second, mut seen, mut pressure) = (0, Vec::new(), Pressure::None);
    for Leg(seconds, from, to) in legs {
        for step in 0..*seconds {
            let available = gib(from + (to - from) * step as f64 / *seconds as f64);
            let taken = watch.step(Sample { at: Duration::from_secs(second), available }, &candidates);
            if watch.pressure() != pressure {
                pressure = watch.pressure();
                seen.push((second, P(pressure)));
            }
            for taking in taken {
                candidates.retain(|candidate| candidate.grant != taking.grant);
                seen.push((second, Taken(taking.grant)));
            }
            second += 1;
        }
    }
    seen
}

#[test]
fn steady() {
    assert_eq!(replay(&[Leg(600, 8.4, 8.1)], vec![candidate(1, 60, 0, true)]), []);
}

/// Weights arrive: every sample is lower than the one before, two of them are below the floor, then the page cache of
/// the staging goes.
#[test]
fn load_burst() {
    let legs = [Leg(20, 80.0, 9.0), Leg(2, 7.0, 7.0), Leg(20, 9.0, 9.5), Leg(2, 3.0, 3.0), Leg(20, 9.0, 9.0)];
    assert_eq!(replay(&legs, vec![candidate(1, 60, 0, true)]), []);
}

/// 0.1 GiB a second: below 8 GiB from second 21 on, below 4 GiB from second 61 on. What is taken does not come back.
#[test]
fn leak() {
    let candidates = vec![candidate(1, 20, 0, false), candidate(2, 10, 0, true), candidate(3, 30, 5, true)];
    let seen = replay(&[Leg(70, 10.0, 3.0)], candidates);
    // the one that comes back by itself; half a minute later the next; when it is critical all that may leave
    let expected =
        [(23, P(Pressure::Low)), (23, Taken(2)), (53, Taken(1)), (63, P(Pressure::Critical)), (63, Taken(3))];
    assert_eq!(seen, expected);
}

/// Taken at second 12, nothing for 25 seconds, then all of it. Nobody else has to leave, and the alarm is over only
/// after ten samples above the floor for a start.
#[test]
fn kill_with_slow_return() {
    let candidates = vec![candidate(1, 20, 0, true), candidate(2, 40, 1, true)];
    let legs = [Leg(10, 12.0, 12.0), Leg(27, 6.0, 6.0), Leg(3, 6.0, 26.0), Leg(40, 26.0, 26.0)];
    let seen = replay(&legs, candidates);
    assert_eq!(seen, [(12, P(Pressure::Low)), (12, Taken(1)), (47, P(Pressure::None))]);
}

/// Back above the floor, but not above the floor for a start: the alarm stays.
#[test]
fn between_the_floors_the_alarm_neither_begins_nor_ends() {
    let candidates = vec![candidate(1, 20, 0, true)];
    assert_eq!(replay(&[Leg(300, 9.0, 9.0)], candidates.clone()), []);
    let seen = replay(&[Leg(5, 7.0, 7.0), Leg(300, 9.0, 9.0), Leg(9, 10.5, 10.5), Leg(5, 9.5, 9.5)], candidates);
    assert_eq!(seen, [(2, P(Pressure::Low)), (2, Taken(1))]);
}

/// A neighbour takes what was given back: when the memory was back for a moment the next one goes without waiting.
#[test]
fn neighbour_growing() {
    let candidates = vec![candidate(1, 10, 0, true), candidate(2, 10, 0, false), candidate(3, 10, 9, false)];
    let legs = [Leg(5, 9.0, 9.0), Leg(5, 7.0, 7.0), Leg(3, 16.0, 16.0), Leg(5, 7.5, 7.5), Leg(20, 7.5, 7.5)];
    let seen = replay(&legs, candidates);
    let expected = [(7, P(Pressure::Low)), (7, Taken(1)), (37, Taken(2))];
    assert_eq!(seen, expected, "16 GiB are more than 80 % back, but were gone before three samples were low again");
}

#[test]
fn what_came_back_and_went_again_does_not_hold_up_the_next() {
    let candidates = vec![candidate(1, 1, 0, true), candidate(2, 10, 0, false)];
    let seen = replay(&[Leg(5, 6.0, 6.0), Leg(5, 7.5, 7.5)], candidates);
    assert_eq!(seen, [(2, P(Pressure::Low)), (2, Taken(1)), (5, Taken(2))], "1 GiB was taken, 1.5 GiB came back");
}

/// All that may leave, whatever its priority; of the others as many as it takes, the lowest and largest first.
#[test]
fn critical_takes_several() {
    let mut candidates = vec![candidate(1, 1, 7, true), candidate(2, 1, 9, true), candidate(3, 2, 0, false)];
    candidates.extend([candidate(4, 3, 0, false), candidate(5, 9, 3, false)]);
    let seen = replay(&[Leg(6, 2.0, 2.0)], candidates);
    let taken = |seen: &(u64, Seen)| if let Taken(grant) = seen.1 { Some(grant) } else { None };
    let taken: Vec<_> = seen.iter().filter_map(taken).collect();
    assert_eq!(seen[0], (2, P(Pressure::Critical)));
    assert_eq!(taken, [1, 2, 4, 3], "2 GiB and 1, 1, 3, 2 are more than 8 GiB");
}

#[test]
fn critical_goes_back_by_steps() {
    let seen = replay(&[Leg(3, 2.0, 2.0), Leg(12, 8.5, 8.5), Leg(12, 11.0, 11.0)], Vec::new());
    let expected = [(2, P(Pressure::Critical)), (12, P(Pressure::Low)), (24, P(Pressure::None))];
    assert_eq!(seen, expected);
}

#[test]
fn floors_are_smaller_on_small_machines() {
    assert_eq!(Floors::of(Bytes::gib(128)), FLOORS);
    assert_eq!(Floors::of(Bytes::gib(24)).run, Bytes::gib(2));
    assert_eq!(Floors::of(Bytes::gib(24)).start, Bytes::mib(2560));
    assert_eq!(FLOORS.critical(), Bytes::gib(4));
}
