//! Who leaves for whom, and when.

use std::time::Duration;

use super::*;

#[test]
fn the_least_that_is_idle_leaves_for_one_that_waits() {
    let wishes = vec![on_demand("large", 40), on_demand("small", 20), on_demand("smaller", 10), wish("new", 35)];
    let mut cluster = Cluster::with_served(wishes.into_iter().take(3).collect());
    cluster.wait(100);
    cluster.situation.wishes.push(wish("new", 35));
    cluster.step();
    assert_eq!(cluster.released(), ["small"], "20 are free, 36 are needed");
    let text = cluster.verdict("new").to_string();
    assert_eq!(text, "waits on n1 until the memory of default/small (20.00 GiB, leaves) is back");
}

#[test]
fn of_the_same_size_the_longest_idle_leaves() {
    let mut cluster = Cluster::with_served(vec![on_demand("a", 30), on_demand("b", 30)]);
    cluster.wait(100);
    cluster.answer("a");
    cluster.wait(100);
    cluster.situation.wishes.push(wish("new", 35));
    cluster.step();
    assert_eq!(cluster.released(), ["b"]);
}

#[test]
fn always_and_higher_priorities_never_leave() {
    let mut higher = on_demand("higher", 30);
    higher.priority = 1;
    let mut cluster = Cluster::with_served(vec![wish("always", 30), higher]);
    cluster.situation.wishes.push(wish("new", 40));
    cluster.wait(100_000);
    cluster.settle();
    assert!(matches!(cluster.verdict("new"), Verdict::WaitingForMemory { .. }), "{:?}", cluster.verdict("new"));
    assert_eq!(cluster.held("n1").len(), 2);
}

#[test]
fn nobody_leaves_before_min_resident_and_three_times_its_load() {
    for (min_resident, load_time, stays) in [(60, None, 60), (60, Some(50), 150), (200, Some(50), 200)] {
        let mut resident = on_demand("old", 60);
        resident.min_resident = Duration::from_secs(min_resident);
        resident.load_time = load_time.map(Duration::from_secs);
        let mut cluster = Cluster::with_served(vec![resident]);
        let since = cluster.situation.nodes[0].reservations[0].since;
        cluster.situation.wishes.push(wish("new", 60));
        cluster.situation.now = since.after(Duration::from_secs(stays)).max(cluster.situation.now);
        cluster.situation.now.0 = since.0 + stays * 1000 - TICK - 1;
        cluster.step();
        let until = since.after(Duration::from_secs(stays));
        let Verdict::SwapDeferred { until: said, .. } = cluster.verdict("new") else {
            panic!("{:?}", cluster.verdict("new"))
        };
        assert_eq!((*said, cluster.plan.look_again), (until, Some(until)));
        cluster.situation.now.0 = until.0 - TICK;
        cluster.step();
        assert_eq!(cluster.released(), ["old"]);
    }
}

#[test]
fn what_is_in_use_leaves_only_for_one_that_has_aged() {
    let mut cluster = Cluster::with_served(vec![on_demand("used", 60)]);
    cluster.wait(1000);
    cluster.request("used");
    let now = cluster.situation.now;
    cluster.situation.wishes.push(Wish { wanted_since: now, ..wish("new", 60) });
    cluster.step();
    let Verdict::SwapDeferred { until, .. } = cluster.verdict("new") else { panic!("{:?}", cluster.verdict("new")) };
    assert_eq!(*until, now.after(AGED_AFTER));
    cluster.situation.now = Time(until.0 - TICK);
    cluster.step();
    assert_eq!(cluster.released(), ["used"]);
}

#[test]
fn what_is_not_used_leaves_after_keep_alive() {
    let mut resident = on_demand("a", 40);
    resident.activation = Activation::OnDemand { keep_alive: Some(Duration::from_secs(300)), requested: false };
    let mut cluster = Cluster::with_served(vec![resident]);
    let used = cluster.situation.now;
    cluster.step();
    assert_eq!(cluster.plan.look_again, Some(used.after(Duration::from_secs(300))));
    cluster.situation.now = Time(used.0 + 300_000 - TICK);
    cluster.step();
    assert_eq!(cluster.released(), ["a"]);
    let mut cluster = Cluster::with_served(vec![on_demand("a", 40)]);
    cluster.wait(1_000_000);
    cluster.settle();
    assert_eq!(cluster.held("n1"), [("a", State::Resident)]);
}
