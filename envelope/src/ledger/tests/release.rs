//! When memory is back.

use std::time::Duration;

use super::*;

#[test]
fn memory_counts_until_it_was_measured_to_be_back() {
    let mut cluster = Cluster::new(&["n1"], vec![wish("a", 60)]);
    cluster.settle();
    let full = cluster.node("n1").measured.expect("it was measured");
    cluster.situation.wishes = vec![wish("b", 81)];
    for _ in 0..10 {
        cluster.step();
        assert!(matches!(cluster.verdict("b"), Verdict::WaitingForRelease { .. }), "{:?}", cluster.verdict("b"));
    }
    assert!(cluster.situation.pods.is_empty());
    let now = cluster.situation.now;
    let back = |percent| Measured { available: full.available + Bytes::gib(60).percent(percent), at: now };
    cluster.node("n1").measured = Some(Measured { at: full.at, ..back(100) });
    cluster.step();
    assert_eq!(cluster.held("n1"), [("a", State::Releasing)], "older than the end of the pod");
    cluster.node("n1").measured = Some(back(79));
    cluster.step();
    assert_eq!(cluster.held("n1"), [("a", State::Releasing)]);
    cluster.node("n1").measured = Some(back(80));
    cluster.step();
    assert_eq!(cluster.held("n1"), [("b", State::Pending)]);
    assert!(cluster.plan.changes.iter().any(|change| change.step == Step::Drop(Release::Returned)));
}

#[test]
fn a_release_that_is_not_measured_ends_with_a_warning() {
    let mut cluster = Cluster::new(&["n1"], vec![wish("a", 60)]);
    cluster.settle();
    cluster.situation.wishes.clear();
    cluster.step();
    cluster.step();
    cluster.step();
    let gone = cluster.situation.nodes[0].reservations[0].gone_at.expect("its pod is gone");
    let limit = gone.after(RELEASE_LIMIT);
    assert_eq!(cluster.plan.look_again, Some(limit));
    cluster.situation.now = Time(limit.0 - TICK);
    cluster.step();
    assert_eq!(cluster.plan.changes[0].step, Step::Drop(Release::TimedOut));
}

#[test]
fn what_comes_next_need_not_wait_for_more_than_it_needs_and_others_do() {
    let mut cluster = Cluster::new(&["n1"], vec![wish("a", 80)]);
    cluster.settle();
    let full = cluster.node("n1").measured.expect("it was measured");
    let now = cluster.situation.now;
    cluster.situation.wishes = vec![
        Wish { wanted_since: now, ..wish("b", 20) },
        Wish { wanted_since: now.after(Duration::from_secs(1)), ..wish("c", 20) },
    ];
    for _ in 0..4 {
        cluster.step();
    }
    let available = full.available + Bytes::gib(15);
    cluster.node("n1").measured = Some(Measured { available, at: cluster.situation.now });
    cluster.step();
    assert_eq!(cluster.held("n1"), [("a", State::Releasing), ("b", State::Pending)]);
    assert!(matches!(cluster.verdict("c"), Verdict::WaitingForRelease { .. }), "{:?}", cluster.verdict("c"));
}

#[test]
fn a_container_that_began_anew_gives_back_what_is_not_the_releases() {
    let mut cluster = Cluster::new(&["n1"], vec![wish("a", 60)]);
    cluster.settle();
    cluster.situation.pods[0].since = cluster.situation.now;
    // Also when a measurement shows what it holds again: what it held before may still be on its way.
    cluster.wait(10);
    cluster.situation.wishes.clear();
    cluster.step();
    assert_eq!(cluster.situation.nodes[0].reservations[0].available_before, None);
}

/// A simulated node had given up 1.7 GiB that were late: another model held less than its reservation, and hid them. When
/// that one left, its whole room was promised, and they were still missing.
#[test]
fn memory_that_is_late_is_not_hidden_by_what_another_does_not_use() {
    let mut cluster = Cluster::new(&["n1"], vec![wish("late", 10), wish("frugal", 60)]);
    cluster.settle();
    cluster.situation.wishes.remove(0);
    // While a container begins anew, no rise is the release's: only what is there counts.
    cluster.situation.pods.iter_mut().for_each(|pod| pod.since = cluster.situation.now);
    cluster.step();
    assert_eq!(cluster.situation.nodes[0].reservations[1].available_before, None);
    cluster.step();
    cluster.step();
    // 100 GiB, of which 2 are the baseline, 50 the other's, and 10 are not back: 90 are kept for models.
    let gone = cluster.situation.now;
    let measure = |cluster: &mut Cluster, available| {
        let at = cluster.situation.now;
        cluster.node("n1").measured = Some(Measured { available: Bytes::gib(available), at });
    };
    let uses = |cluster: &mut Cluster, gib| {
        let mut held = cluster.node("n1").reservations.iter_mut();
        held.find(|held| held.key == "frugal").expect("it serves").measured = gib;
    };
    cluster.situation.now = gone.after(Duration::from_secs(20));
    for known in [Some(Bytes::gib(50)), None] {
        measure(&mut cluster, 38);
        uses(&mut cluster, known);
        cluster.step();
        assert_eq!(cluster.held("n1"), [("frugal", State::Resident), ("late", State::Releasing)], "{known:?}");
    }
    uses(&mut cluster, Some(Bytes::gib(50)));
    measure(&mut cluster, 48);
    cluster.step();
    assert_eq!(cluster.held("n1"), [("frugal", State::Resident)]);
    assert_eq!(cluster.plan.changes[0].step, Step::Drop(Release::NothingMissing));
}

/// What was in the ledger that was lost comes back too, and nobody waits for it.
#[test]
fn what_is_found_without_a_reservation_is_not_released_by_what_rises() {
    let mut cluster = Cluster::new(&["n1"], vec![wish("a", 60)]);
    cluster.settle();
    cluster.node("n1").reservations.clear();
    cluster.situation.wishes.clear();
    cluster.step();
    assert_eq!(cluster.held("n1"), [("a", State::Releasing)]);
    assert_eq!(cluster.situation.nodes[0].reservations[0].available_before, None);
}

/// By hand, or by an eviction. Kubernetes dates the end of such a pod after its time to end, which lies ahead.
#[test]
fn a_pod_that_somebody_deleted_comes_again_when_its_memory_is_back() {
    let mut cluster = Cluster::new(&["n1"], vec![wish("a", 60)]);
    cluster.settle();
    let full = cluster.node("n1").measured.expect("it was measured");
    let ahead = cluster.situation.now.after(Duration::from_secs(30));
    (cluster.situation.pods[0].phase, cluster.situation.pods[0].since) = (PodPhase::Terminating, ahead);
    cluster.step();
    assert_eq!(cluster.held("n1"), [("a", State::Releasing)]);
    assert_eq!(cluster.situation.nodes[0].reservations[0].available_before, Some(full.available));
    cluster.situation.pods.clear();
    cluster.step();
    // Somebody else has grown meanwhile: the node is not as empty as the ledger would promise.
    let at = cluster.situation.now.after(Duration::from_millis(1));
    cluster.node("n1").measured = Some(Measured { available: full.available + Bytes::gib(50), at });
    cluster.step();
    assert!(
        cluster.plan.changes.iter().any(|change| change.step == Step::Drop(Release::Returned)),
        "{:?}",
        cluster.plan
    );
}
