//! Series of memory readings, made up and recorded (`tests/testdata/memory`), replayed second by second through the agent
//! and the planner: `/proc` as the kernel writes it, the desk with its watch, baseline and grants, the pace of publishing,
//! and the plans that follow from what was published. The clock is the test's.
#![allow(missing_docs)]

mod node;
mod series;
mod words;

use kindling_api::Pressure;
use kindling_envelope::Bytes;
use kindling_envelope::ledger::{Activation, Release, State, Unusable, Verdict};

use node::{Event, Node};
use words::{idle, wish};

/// A large model that always serves, and one that may leave.
fn two() -> Vec<kindling_envelope::ledger::Wish> {
    vec![idle("low", 40, 0), wish("high", 60, 10)]
}

#[tokio::test(start_paused = true)]
async fn steady_memory_moves_nobody_and_is_hardly_told() {
    let mut node = Node::start("steady", two(), Vec::new()).await;
    node.run_to(5).await;
    node.seen.clear();
    let told = node.times_published;
    node.run_to_end().await;
    assert_eq!(node.seen, [], "neither a free memory of a few GiB nor processes that wait are a shortage");
    let told = node.times_published - told;
    assert!((9..=10).contains(&told), "a sign of life a minute in 595 s: {told}");
}

#[tokio::test(start_paused = true)]
async fn a_load_with_bursts_takes_nothing_back() {
    let mut node = Node::start("load_burst", two(), Vec::new()).await;
    node.run_to(28).await;
    node.situation.wishes.push(wish("new", 9, 0));
    node.run_to_end().await;
    assert_eq!(node.times("new", &Event::Reserved), [29]);
    assert_eq!(node.times("new", &Event::Granted).len(), 1, "{:?}", node.seen);
    assert_eq!(node.held("new").map(|held| held.state), Some(State::Resident));
    assert!(["low", "high", "new"].iter().all(|key| node.times(key, &Event::Revoked).is_empty()), "{:?}", node.seen);
    assert!(node.times("", &Event::Pressure(Pressure::Low)).is_empty(), "{:?}", node.seen);
}

/// The floor is passed in second 102; the third sample below it takes from the lowest priority, and from nobody else.
#[tokio::test(start_paused = true)]
async fn a_leak_takes_the_lowest_priority_back_and_nothing_starts_meanwhile() {
    let mut node = Node::start("leak", two(), Vec::new()).await;
    let below = (0..).find(|second| node.available_at(*second) < Bytes::gib(8)).expect("it leaks");
    node.run_to(below + 1).await;
    assert!(node.times("low", &Event::Revoked).is_empty(), "two samples below are a burst");
    node.run_to(below + 2).await;
    assert_eq!(node.times("low", &Event::Revoked), [below + 2]);
    assert_eq!(node.times("", &Event::Pressure(Pressure::Low)), [below + 2], "told at once");
    node.situation.wishes.push(wish("new", 20, 0));
    node.run_to(below + 3).await;
    assert_eq!(*node.verdict("new"), Verdict::NoUsableNode { nodes: vec![("n1".to_owned(), Unusable::Pressure)] });
    node.run_to_end().await;
    assert!(node.times("high", &Event::Revoked).is_empty(), "{:?}", node.seen);
    let over = node.times("", &Event::Pressure(Pressure::None));
    let enough = (below..).find(|second| node.available_at(*second) >= Bytes::gib(10)).expect("it comes back");
    assert_eq!(over, [enough + 9], "ten samples above the floor for a start");
    assert!(node.times("new", &Event::Reserved)[0] >= over[0], "{:?}", node.seen);
    let [(at, how)] = &node.ended("low")[..] else { panic!("{:?}", node.seen) };
    assert!(
        *how != Release::TimedOut && node.available_at(*at) >= Bytes::gib(38),
        "{how:?} with {}",
        node.available_at(*at)
    );
    assert_eq!(node.held("new").map(|held| held.state), Some(State::Resident));
}

/// A process that was killed or ended holds its memory for most of a minute more: its reservation stands for it until what
/// it held is back, or until what comes next has its room: 50 GiB, 1 to load, and the floor of 8.
#[tokio::test(start_paused = true)]
async fn a_release_does_not_end_before_the_memory_is_back() {
    for (is_killed, enough) in [(true, Bytes::gib(50 + 1 + 8)), (false, Bytes::gib(24 + 32))] {
        let mut node = Node::start("kill_slow_return", two(), Vec::new()).await;
        node.run_to(14).await;
        if is_killed {
            node.run_to(20).await;
            node.kill("low").await;
        }
        node.situation.wishes[0].activation = Activation::Suspended;
        node.situation.wishes.push(wish("next", 50, 0));
        let back = (20..).find(|second| node.available_at(*second) >= enough).expect("it comes back");
        while node.second + 1 < back {
            node.run_to(node.second + 1).await;
            assert!(matches!(node.verdict("next"), Verdict::WaitingForRelease { .. }), "{}", node.verdict("next"));
            assert_eq!(node.held("low").map(|held| held.terms.bytes), Some(Bytes::gib(40)), "it counts");
        }
        node.run_to_end().await;
        let reserved = node.times("next", &Event::Reserved);
        assert!((back..=back + 2).contains(&reserved[0]), "told within a second: {back}, {reserved:?}");
        assert_eq!(node.held("next").map(|held| held.state), Some(State::Resident));
        let [(at, how)] = &node.ended("low")[..] else { panic!("{:?}", node.seen) };
        // Nobody told a killed one to go, so what was available before it went is not known.
        let expected = if is_killed { Release::NothingMissing } else { Release::Returned };
        assert_eq!((how, is_killed || *at == reserved[0]), (&expected, true), "{:?}", node.seen);
    }
}

/// What the ledger promises is one thing, what is there another: a neighbour has taken it.
#[tokio::test(start_paused = true)]
async fn what_a_neighbour_took_is_not_loaded_into() {
    let fits_before = |second| async move {
        let mut node = Node::start("neighbour_growing", two(), Vec::new()).await;
        node.run_to(second).await;
        node.situation.wishes.push(wish("new", 8, 0));
        node.run_to(second + 30).await;
        let revoked: Vec<_> = node.seen.iter().filter(|(.., event)| *event == Event::Revoked).collect();
        assert!(revoked.is_empty(), "12 GiB are above the floor: {revoked:?}");
        (node.held("new").map(|held| held.state), node.times("new", &Event::Granted).len())
    };
    assert_eq!(fits_before(10).await, (Some(State::Resident), 1));
    assert_eq!(fits_before(120).await, (Some(State::Pending), 0), "8 + 1 and a floor of 8 are more than 12");
}

/// While no model is there, what somebody else takes is the baseline, and what fits on the node at all gets less.
#[tokio::test(start_paused = true)]
async fn what_a_neighbour_took_lowers_what_may_be_admitted() {
    let mut node = Node::start("neighbour_growing_alone", Vec::new(), Vec::new()).await;
    node.run_to(10).await;
    let before = node.facts().baseline;
    node.run_to_end().await;
    let after = node.facts().baseline;
    assert!((Bytes::mib(4096 - 64)..Bytes::mib(4096 + 64)).contains(&before), "{before}");
    assert!((Bytes::mib(16_384 - 300)..Bytes::mib(16_384 + 64)).contains(&after), "{after}");
    for (baseline, fits) in [(before, true), (after, false)] {
        node.facts().baseline = baseline;
        node.situation.wishes = vec![wish("large", 110, 0)];
        let plan = kindling_envelope::ledger::plan(&node.situation);
        let verdict = &plan.verdicts["large"];
        assert_eq!(verdict.node().is_some(), fits, "{verdict}");
        assert_eq!(matches!(verdict, Verdict::Refused { .. }), !fits, "{verdict}");
    }
}

/// 24 GiB of memory, so a floor of 2. The recorded process is a model of 4 GiB that loads from second 15 on.
#[tokio::test(start_paused = true)]
async fn a_recorded_process_is_baseline_before_held_while_it_lives_and_back_when_it_was_killed() {
    let mut node = Node::start("recorded_steps_then_killed", Vec::new(), Vec::new()).await;
    node.load_seconds = 34;
    node.run_to(10).await;
    let baseline = node.facts().baseline;
    node.situation.wishes.push(idle("recorded", 4, 0));
    node.situation.wishes[0].activation = Activation::OnDemand { keep_alive: None, requested: true };
    node.run_to(14).await;
    assert_eq!(node.times("recorded", &Event::Granted).len(), 1, "{:?}", node.seen);
    node.run_to(62).await;
    assert_eq!(node.held("recorded").map(|held| held.state), Some(State::Resident));
    let later = node.facts().baseline;
    assert!(later.0.abs_diff(baseline.0) < Bytes::mib(256).0, "{baseline}, {later}: what a model takes is no baseline");
    node.situation.wishes[0].activation = Activation::OnDemand { keep_alive: None, requested: false };
    node.situation.wishes.push(wish("next", 16, 0));
    node.run_to(64).await;
    let said = node.verdict("next").to_string();
    assert!(said.starts_with("waits on n1 until team/recorded (4.00 GiB)"), "{said}");
    node.kill("recorded").await;
    node.run_to_end().await;
    let back = (62..).find(|second| node.available_at(*second) >= Bytes::gib(16 + 1 + 2)).expect("it comes back");
    let [reserved] = node.times("next", &Event::Reserved)[..] else { panic!("{:?}", node.seen) };
    assert!((back..=back + 2).contains(&reserved), "{reserved}, {back}");
    assert!(node.ended("recorded").iter().all(|(_, how)| *how != Release::TimedOut), "{:?}", node.seen);
    assert!(node.seen.iter().all(|(.., event)| *event != Event::Revoked), "{:?}", node.seen);
}
