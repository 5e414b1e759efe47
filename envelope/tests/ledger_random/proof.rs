//! The checker itself, on worlds made by hand: what it notices, and how far it does not complain.

use std::panic::{AssertUnwindSafe, catch_unwind};

use kindling_envelope::Bytes;
use kindling_envelope::ledger::{Reservation, State, Terms, Time};

use crate::world::{GIB, Machine, Returning, SECOND, World};
use crate::{chaos, checker};

/// One machine of 100 GiB: 2 are its baseline, 8 its floor, so 90 are left.
fn world(reservations: Vec<Reservation>, returning: Vec<Returning>) -> World {
    let mut world = chaos::busy(0);
    world.asked.clear();
    let machine = world.machines.remove("n0").expect("it is made with one");
    let machine = Machine { total: 100 * GIB, baseline: 2 * GIB, ledger: reservations, returning, ..machine };
    assert_eq!((machine.floor(), machine.others, machine.foreign), (8 * GIB, 0, 0));
    world.machines.insert("n0".to_owned(), machine);
    world
}

fn reservation(key: &str, gib: u64, state: State) -> Reservation {
    let terms = Terms {
        bytes: Bytes::gib(gib),
        load_transient: Bytes(0),
        context: 1,
        fingerprint: "generation 1".to_owned(),
        overridden: false,
    };
    let (name, model, since) = (key.to_owned(), key.to_owned(), Time(0));
    let nothing = (None, None, None);
    let (measured, available_before, gone_at) = nothing;
    let (key, priority, made_at) = (key.to_owned(), 0, since);
    Reservation { key, name, model, priority, terms, state, since, made_at, measured, available_before, gone_at }
}

fn returning(key: &str, gib: u64, group: Option<usize>) -> Returning {
    let (bytes, dead_at) = (gib * GIB, 1_000_000 * SECOND);
    let back_at = dead_at + 1000 * SECOND;
    let (is_unknown, is_of_restart) = (false, false);
    Returning { key: key.to_owned(), bytes, counted: bytes, back_at, dead_at, is_unknown, is_of_restart, group }
}

fn complains(world: &World) -> bool {
    catch_unwind(AssertUnwindSafe(|| checker::at_any_time(world))).is_err()
}

/// A process has ended, and its operator has not seen it yet: what it held is on its way, not what was reserved for it.
/// The checker once took the reservation, and complained of a plan that had gone by what was measured.
#[test]
fn a_resident_whose_process_has_ended_counts_what_is_not_back() {
    for (not_back, is_too_much) in [(35, false), (37, true)] {
        let ledger = vec![
            reservation("ended", 40, State::Resident),
            reservation("next", 24, State::Pending),
            reservation("yielded", 0, State::Releasing),
        ];
        let world = world(ledger, vec![returning("ended", not_back, None), returning("yielded", 30, None)]);
        assert_eq!(complains(&world), is_too_much, "{not_back} + 24 + 30 of 90");
    }
}

/// Memory of a reservation that has ended counts beyond what the rules allow it, for as long as they have it waited for.
#[test]
fn memory_that_was_given_up_counts_until_the_limit() {
    for (allowed, after_seconds, is_too_much) in [(9, 0, true), (10, 0, false), (9, 119, true), (9, 120, false)] {
        let ledger = vec![reservation("next", 80, State::Pending)];
        let mut world = world(ledger, vec![returning("ended", 20, Some(0))]);
        world.groups.push(allowed * GIB);
        world.now += after_seconds * SECOND;
        assert_eq!(complains(&world), is_too_much, "{allowed} of 20 allowed, {after_seconds} s");
    }
}

/// Two containers of one pod were reserved for once; two pods were not.
#[test]
fn what_a_container_before_held_counts_within_its_reservation() {
    let both = || vec![returning("ended", 40, None), returning("ended", 40, None)];
    let ledger = |gib| vec![reservation("ended", 40, State::Releasing), reservation("next", gib, State::Pending)];
    assert!(!complains(&world(ledger(50), both())));
    let mut others = both();
    others[1].key = "other".to_owned();
    let mut ledger = ledger(40);
    ledger.push(reservation("other", 0, State::Releasing));
    assert!(complains(&world(ledger, others)), "40 + 40 + 40 of 90");
}

#[test]
fn a_ledger_that_promises_too_much_is_counted() {
    for (gib, times) in [(50, 0), (51, 1)] {
        let world = world(vec![reservation("a", 40, State::Releasing), reservation("b", gib, State::Pending)], vec![]);
        checker::at_any_time(&world);
        assert_eq!(world.figures.over_commitments.get(), times, "40 and {gib} of 90");
    }
}
