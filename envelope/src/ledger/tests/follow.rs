//! What becomes of reservations: pods that come and go, nodes that are lost, models that are changed.

use super::*;

#[test]
fn a_lost_node_keeps_its_reservations_until_its_object_is_deleted() {
    let mut cluster = Cluster::new(&["n1", "n2"], vec![wish("a", 10)]);
    cluster.settle();
    cluster.node("n1").lost = true;
    cluster.situation.pods[0].phase = PodPhase::Starting;
    cluster.wait(1000);
    cluster.step();
    assert_eq!(*cluster.verdict("a"), Verdict::NodeLost { node: "n1".to_owned() });
    assert!(cluster.plan.ledgers.is_empty() && cluster.plan.pods.is_empty(), "{:?}", cluster.plan);
    cluster.situation.nodes.remove(0);
    cluster.situation.pods.clear();
    cluster.settle();
    assert_eq!(cluster.verdict("a").node(), Some("n2"));
}

#[test]
fn another_context_is_admitted_before_the_model_restarts() {
    let mut cluster = Cluster::new(&["n1"], vec![wish("a", 40), wish("b", 30)]);
    cluster.settle();
    let changed = |gib| Some(Need { fingerprint: "otherwise".to_owned(), ..need(gib) });
    cluster.wish("a").need = changed(70);
    cluster.settle();
    let Verdict::ChangeRefused { misfit } = cluster.verdict("a") else { panic!("{:?}", cluster.verdict("a")) };
    assert_eq!((misfit.shortfall.needed, misfit.shortfall.free), (Bytes::gib(71), Bytes::gib(60)));
    assert_eq!(cluster.held("n1"), [("a", State::Resident), ("b", State::Resident)]);
    cluster.wish("a").need = changed(50);
    cluster.settle();
    let held = &cluster.situation.nodes[0].reservations[0];
    assert_eq!((held.terms.bytes, held.state), (Bytes::gib(50), State::Resident));
}

#[test]
fn of_two_changes_that_fit_one_at_a_time_one_is_made() {
    let mut cluster = Cluster::new(&["n1"], vec![wish("a", 40), wish("b", 40)]);
    cluster.settle();
    for key in ["a", "b"] {
        cluster.wish(key).need = Some(Need { fingerprint: "otherwise".to_owned(), ..need(48) });
    }
    cluster.settle();
    assert_eq!(cluster.held("n1"), [("a", State::Resident), ("b", State::Resident)]);
    assert!(matches!(cluster.verdict("b"), Verdict::ChangeRefused { .. }), "{:?}", cluster.verdict("b"));
}

#[test]
fn what_was_learned_counts_at_the_next_start() {
    let mut cluster = Cluster::new(&["n1"], vec![wish("a", 40)]);
    cluster.settle();
    cluster.wish("a").need = Some(need(45));
    cluster.settle();
    assert_eq!(cluster.situation.nodes[0].reservations[0].terms.bytes, Bytes::gib(40));
}

#[test]
fn a_pod_without_a_reservation_is_counted_before_anything_else() {
    let mut cluster = Cluster::new(&["n1"], vec![wish("a", 60)]);
    cluster.settle();
    cluster.node("n1").reservations.clear();
    cluster.situation.wishes.insert(0, Wish { priority: 9, ..wish("b", 60) });
    cluster.step();
    assert_eq!(cluster.held("n1"), [("a", State::Resident)]);
    assert_eq!(cluster.plan.changes[0].step, Step::Adopt);
}

#[test]
fn a_pod_that_is_gone_is_released_before_it_is_made_again() {
    let mut cluster = Cluster::new(&["n1"], vec![wish("a", 60)]);
    cluster.settle();
    cluster.situation.pods.clear();
    cluster.step();
    assert_eq!(cluster.held("n1"), [("a", State::Releasing)]);
    cluster.settle();
    assert_eq!(cluster.held("n1"), [("a", State::Resident)]);
}

/// Each would fit without the other, which comes first in the queue.
#[test]
fn models_leave_for_a_change_one_after_the_other() {
    let mut cluster = Cluster::new(&["n1"], vec![wish("a", 40), wish("b", 40)]);
    cluster.wish("b").priority = 1;
    cluster.settle();
    let changed = Some(Need { fingerprint: "otherwise".to_owned(), ..need(48) });
    cluster.wish("a").need.clone_from(&changed);
    cluster.step();
    assert_eq!(cluster.released(), ["a"]);
    cluster.wish("b").need = changed;
    cluster.step();
    assert_eq!(cluster.held("n1"), [("a", State::Releasing), ("b", State::Resident)]);
}

/// A ledger that was lost, or a pod that somebody made: a copy has one place, and it is the one that serves.
#[test]
fn of_two_places_of_one_copy_the_one_stays_that_is_further() {
    let mut cluster = Cluster::new(&["n1", "n2"], vec![wish("a", 40)]);
    cluster.settle();
    assert_eq!(cluster.held("n1"), [("a", State::Resident)]);
    let twin = Pod { node: "n2".to_owned(), phase: PodPhase::Starting, ..cluster.situation.pods[0].clone() };
    cluster.situation.pods.push(twin);
    cluster.step();
    assert_eq!(cluster.held("n1"), [("a", State::Resident)]);
    assert_eq!(cluster.held("n2"), [("a", State::Releasing)]);
}
