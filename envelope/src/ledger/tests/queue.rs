//! Who gets memory next, and what is said to whoever does not.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;

#[test]
fn what_fits_is_reserved_then_made_then_serves() {
    let mut cluster = Cluster::new(&["n1"], vec![wish("a", 40)]);
    let mut states = Vec::new();
    for _ in 0..4 {
        cluster.step();
        cluster.measure();
        let Verdict::Admitted { state, .. } = cluster.verdict("a") else { panic!("{:?}", cluster.verdict("a")) };
        states.push((*state, cluster.plan.pods.len()));
        if cluster.situation.pods.len() == 1 && states.len() == 3 {
            cluster.situation.pods[0].phase = PodPhase::Ready;
        }
    }
    assert_eq!(states, [(State::Pending, 0), (State::Pending, 1), (State::Loading, 0), (State::Resident, 0)]);
}

#[test]
fn what_does_not_fit_beside_another_waits_and_says_who_holds_the_memory() {
    let mut cluster = Cluster::new(&["n1"], vec![wish("a", 60)]);
    cluster.settle();
    cluster.situation.wishes.push(wish("b", 40));
    cluster.settle();
    assert!(matches!(cluster.verdict("b"), Verdict::WaitingForMemory { .. }), "{:?}", cluster.verdict("b"));
    let text = cluster.verdict("b").to_string();
    assert!(text.contains("held by default/a (60.00 GiB)") && text.contains("needs 41.00 GiB"), "{text}");
    cluster.situation.wishes.remove(0);
    cluster.settle();
    assert_eq!(cluster.verdict("b").node(), Some("n1"));
}

#[test]
fn what_fits_on_no_node_is_refused_with_what_would_fit() {
    let mut cluster = Cluster::new(&["n1"], vec![wish("a", 95)]);
    let need = cluster.wish("a").need.as_mut().expect("it is known");
    need.model.weights = Bytes::gib(80);
    need.model.cache = vec![CacheLayers::Full { layers: 64, kv_heads: 16, head_dim: 128 }];
    need.serving.context = 65_536;
    need.serving.pool = Pool::EverySequence;
    cluster.step();
    let Verdict::Refused { misfits } = cluster.verdict("a") else { panic!("{:?}", cluster.verdict("a")) };
    assert_eq!((misfits[0].shortfall.needed, misfits[0].shortfall.free), (Bytes::gib(96), Bytes::gib(90)));
    assert!(misfits[0].alternatives.context.is_some());
    let text = cluster.verdict("a").to_string();
    assert!(text.starts_with("fits on no node: n1: needs 96.00 GiB") && text.contains("with contextLength"), "{text}");
}

#[test]
fn under_policy_warn_it_has_a_node_for_itself_and_it_is_said() {
    let mut cluster = Cluster::new(&["n1"], vec![Wish { policy: Policy::Warn, ..wish("a", 95) }, wish("b", 10)]);
    cluster.wish("b").wanted_since = Time(1);
    cluster.step();
    assert!(matches!(cluster.verdict("a"), Verdict::Overridden { .. }), "{:?}", cluster.verdict("a"));
    assert!(cluster.verdict("a").to_string().contains("policy Warn"));
    assert!(matches!(cluster.verdict("b"), Verdict::WaitingForMemory { .. }), "{:?}", cluster.verdict("b"));
}

#[test]
fn one_model_loads_at_a_time() {
    let mut cluster = Cluster::new(&["n1"], vec![wish("a", 10), wish("b", 10), wish("c", 10)]);
    for _ in 0..5 {
        cluster.step();
        cluster.measure();
        let starting = cluster.situation.pods.iter().filter(|pod| pod.phase == PodPhase::Starting);
        assert!(starting.count() <= 1);
    }
    assert_eq!(cluster.situation.pods.len(), 1);
    cluster.settle();
    assert_eq!(cluster.situation.pods.len(), 3);
}

#[test]
fn what_loads_counts_with_what_loading_takes_once() {
    let mut cluster = Cluster::new(&["n1"], vec![wish("a", 44), wish("b", 45)]);
    cluster.step();
    assert_eq!(cluster.held("n1").len(), 2, "44 + 45 + 1 of 90");
    let mut cluster = Cluster::new(&["n1"], vec![wish("a", 45), wish("b", 45)]);
    cluster.step();
    assert_eq!(cluster.held("n1").len(), 1);
}

#[test]
fn who_has_aged_is_not_jumped_and_what_it_cannot_use_is_free() {
    let mut cluster = Cluster::with_served(vec![on_demand("used", 50)]);
    cluster.wish("used").min_resident = Duration::from_secs(10_000);
    let now = cluster.situation.now;
    cluster.situation.wishes.push(Wish { wanted_since: now, ..wish("large", 70) });
    cluster.wait(AGED_AFTER.as_secs());
    let now = cluster.situation.now;
    let mut after = |name: &str, gib| cluster.situation.wishes.push(Wish { wanted_since: now, ..wish(name, gib) });
    after("beyond", 25);
    after("beside", 15);
    cluster.step();
    assert!(matches!(cluster.verdict("large"), Verdict::SwapDeferred { .. }), "{:?}", cluster.verdict("large"));
    let Verdict::WaitingForMemory { behind, .. } = cluster.verdict("beyond") else {
        panic!("{:?}", cluster.verdict("beyond"))
    };
    assert_eq!(behind, &["default/large"]);
    assert_eq!(cluster.verdict("beside").node(), Some("n1"), "70 + 15 + 1 of 90");
}

#[test]
fn who_has_not_aged_is_jumped() {
    let mut cluster = Cluster::with_served(vec![on_demand("used", 50)]);
    let now = cluster.situation.now;
    cluster.situation.wishes.push(Wish { wanted_since: now, ..wish("large", 70) });
    cluster.situation.wishes.push(Wish { wanted_since: now.after(Duration::from_secs(1)), ..wish("small", 25) });
    cluster.step();
    assert_eq!(cluster.verdict("small").node(), Some("n1"));
}

#[test]
fn a_node_of_no_use_takes_nothing_and_it_is_said_why() {
    let spoil = |node: &mut NodeFacts, why| match why {
        Unusable::Lost => node.lost = true,
        Unusable::Cordoned => node.cordoned = true,
        Unusable::NoAgent => node.agent = false,
        Unusable::Pressure => node.pressure = true,
    };
    for why in [Unusable::Lost, Unusable::Cordoned, Unusable::NoAgent, Unusable::Pressure] {
        let mut cluster = Cluster::new(&["n1"], vec![wish("a", 10)]);
        spoil(cluster.node("n1"), why);
        cluster.step();
        assert_eq!(*cluster.verdict("a"), Verdict::NoUsableNode { nodes: vec![("n1".to_owned(), why)] });
        assert!(cluster.plan.ledgers.is_empty());
        let mut cluster = Cluster::new(&["n1", "n2"], vec![wish("a", 10)]);
        spoil(cluster.node("n1"), why);
        cluster.settle();
        assert_eq!(cluster.verdict("a").node(), Some("n2"));
    }
}

/// Three copies of a model, and the nodes `n1` and `n2`.
fn copies() -> Vec<Wish> {
    let copy = |number: u64| Wish { model: "a".to_owned(), ..wish(&format!("a-{number}"), 20) };
    vec![copy(0), copy(1), copy(2)]
}

#[test]
fn copies_are_spread_and_no_two_share_a_node() {
    let mut cluster = Cluster::new(&["n1", "n2"], copies());
    cluster.settle();
    assert_eq!((cluster.held("n1").len(), cluster.held("n2").len()), (1, 1));
    let nodes = vec!["n1".to_owned(), "n2".to_owned()];
    assert_eq!(*cluster.verdict("a-2"), Verdict::OneCopyPerNode { nodes });
    cluster.situation.wishes.retain(|wish| wish.key != "a-0");
    cluster.settle();
    assert!(cluster.verdict("a-2").node().is_some(), "there is room for it now");
}

#[test]
fn nothing_is_unloaded_for_a_copy_where_another_comes() {
    let mut cluster = Cluster::new(&["n1"], vec![on_demand("b", 60)]);
    cluster.request("b");
    cluster.settle();
    cluster.answer("b");
    cluster.wait(100);
    cluster.situation.wishes.extend(copies().into_iter().map(|copy| Wish { need: Some(need(45)), ..copy }));
    cluster.settle();
    let placed = ["a-0", "a-1", "a-2"].map(|key| cluster.verdict(key).node().is_some());
    assert_eq!(placed, [true, false, false]);
    assert_eq!(cluster.held("n1").len(), 1);
}

#[test]
fn copies_are_changed_one_after_the_other() {
    let mut cluster = Cluster::new(&["n1", "n2"], copies());
    cluster.settle();
    for wish in &mut cluster.situation.wishes {
        wish.need = Some(Need { fingerprint: "otherwise".to_owned(), ..need(30) });
    }
    for _ in 0..60 {
        cluster.step();
        let serve = cluster.situation.pods.iter().filter(|pod| pod.phase == PodPhase::Ready).count();
        assert!(serve >= 1, "one of them always serves");
        // What is made now is ready a step later.
        let ready: Vec<String> = cluster.situation.pods.iter().map(|pod| pod.key.clone()).collect();
        cluster.measure();
        cluster.step();
        cluster.measure();
        for pod in cluster.situation.pods.iter_mut().filter(|pod| ready.contains(&pod.key)) {
            pod.phase = PodPhase::Ready;
        }
    }
    let held = cluster.situation.nodes.iter().flat_map(|node| &node.reservations);
    assert_eq!(held.map(|held| held.terms.fingerprint.as_str()).collect::<Vec<_>>(), ["otherwise", "otherwise"]);
}

#[test]
fn copy_that_failed_as_it_is_asked_to_be_now_keeps_the_other_as_it_is() {
    let mut cluster = Cluster::new(&["n1", "n2"], copies());
    cluster.settle();
    let (tried_again, now) = (cluster.situation.now.after(Duration::from_secs(300)), cluster.situation.now);
    for wish in &mut cluster.situation.wishes {
        wish.need = Some(Need { fingerprint: "otherwise".to_owned(), ..need(30) });
    }
    cluster.wish("a-0").not_before = Some(tried_again);
    while cluster.situation.now < now.after(Duration::from_secs(290)) {
        cluster.step();
        cluster.measure();
        assert!(cluster.situation.pods.iter().any(|pod| pod.phase == PodPhase::Ready), "the other one serves");
    }
    cluster.wait(20);
    cluster.settle();
    let held = cluster.situation.nodes.iter().flat_map(|node| &node.reservations);
    assert_eq!(held.map(|held| held.terms.fingerprint.as_str()).collect::<Vec<_>>(), ["otherwise", "otherwise"]);
}

#[test]
fn change_that_does_not_come_up_leaves_the_other_copy_alone() {
    let mut cluster = Cluster::new(&["n1", "n2"], copies());
    cluster.settle();
    let all = |cluster: &mut Cluster, fingerprint: &str| {
        for wish in &mut cluster.situation.wishes {
            wish.need = Some(Need { fingerprint: fingerprint.to_owned(), ..need(30) });
        }
    };
    all(&mut cluster, "does not come up");
    for _ in 0..200 {
        cluster.step();
        cluster.measure();
    }
    let serve = cluster.situation.pods.iter().filter(|pod| pod.phase == PodPhase::Ready).count();
    assert_eq!((serve, cluster.situation.pods.len()), (1, 2));
    all(&mut cluster, "comes up");
    cluster.settle();
    let held = cluster.situation.nodes.iter().flat_map(|node| &node.reservations);
    assert_eq!(held.map(|held| held.terms.fingerprint.as_str()).collect::<Vec<_>>(), ["comes up", "comes up"]);
}

#[test]
fn of_two_nodes_the_one_is_filled_that_has_less_room_left() {
    let mut cluster = Cluster::new(&["n1", "n2"], vec![wish("a", 30)]);
    cluster.wish("a").nodes = BTreeSet::from(["n2".to_owned()]);
    cluster.settle();
    cluster.situation.wishes.push(wish("b", 30));
    cluster.settle();
    assert_eq!(cluster.verdict("b").node(), Some("n2"), "so that n1 still takes a large one");
}

#[test]
fn weights_are_brought_where_there_is_room_if_nobody_leaves_where_they_are() {
    let mut cluster = Cluster::new(&["n1", "n2"], vec![wish("first", 60)]);
    cluster.wish("first").nodes = BTreeSet::from(["n1".to_owned()]);
    cluster.settle();
    let mut second = wish("second", 60);
    second.weights_on = BTreeSet::from(["n1".to_owned()]);
    cluster.situation.wishes.push(second);
    cluster.step();
    assert_eq!(*cluster.verdict("second"), Verdict::WaitingForWeights { nodes: vec!["n2".to_owned()] });
    // They came.
    cluster.wish("second").weights_on.insert("n2".to_owned());
    cluster.settle();
    assert_eq!(cluster.verdict("second").node(), Some("n2"));
    // No room is nowhere: then it waits for memory where the weights are.
    let mut third = wish("third", 60);
    third.weights_on = BTreeSet::from(["n1".to_owned()]);
    cluster.situation.wishes.push(third);
    cluster.step();
    assert!(matches!(cluster.verdict("third"), Verdict::WaitingForMemory { .. }), "{:?}", cluster.verdict("third"));
}

#[test]
fn what_cannot_start_says_why() {
    let mut cluster = Cluster::new(&["n1"], vec![wish("a", 10)]);
    let mut verdict = |change: &dyn Fn(&mut Wish)| {
        let mut wish = wish("a", 10);
        change(&mut wish);
        cluster.situation.wishes = vec![wish];
        cluster.step();
        assert!(cluster.plan.ledgers.is_empty());
        cluster.verdict("a").clone()
    };
    assert_eq!(verdict(&|wish| wish.need = None), Verdict::FactsUnknown);
    assert_eq!(verdict(&|wish| wish.activation = Activation::Suspended), Verdict::Suspended);
    assert_eq!(verdict(&|wish| *wish = on_demand("a", 10)), Verdict::Idle);
    assert_eq!(verdict(&|wish| wish.nodes.clear()), Verdict::NoNode);
    let nodes = vec!["n1".to_owned()];
    assert_eq!(verdict(&|wish| wish.weights_on.clear()), Verdict::WaitingForWeights { nodes });
    let until = Time(u64::MAX / 2);
    assert_eq!(verdict(&|wish| wish.not_before = Some(until)), Verdict::BackingOff { until });
}

#[test]
fn who_has_a_higher_priority_comes_first_however_long_others_wait() {
    let mut cluster = Cluster::new(&["n1"], vec![wish("early", 60), wish("late", 60)]);
    cluster.wish("late").priority = 1;
    cluster.wish("late").wanted_since = Time(999_000);
    cluster.step();
    assert_eq!(cluster.held("n1"), [("late", State::Pending)]);
}

#[test]
fn who_has_room_made_for_it_is_not_jumped() {
    let mut cluster = Cluster::with_served(vec![on_demand("idle", 50)]);
    cluster.wait(100);
    let now = cluster.situation.now;
    cluster.situation.wishes.push(Wish { wanted_since: now, ..wish("large", 60) });
    cluster.situation.wishes.push(Wish { wanted_since: now.after(Duration::from_secs(1)), ..wish("small", 35) });
    cluster.step();
    assert_eq!(cluster.released(), ["idle"]);
    assert_eq!(cluster.held("n1"), [("idle", State::Releasing)], "35 + 60 of 90");
    cluster.settle();
    assert_eq!(cluster.verdict("large").node(), Some("n1"));
}

#[test]
fn nobody_takes_what_one_that_was_changed_comes_back_to() {
    let mut cluster = Cluster::new(&["n1"], vec![wish("a", 60)]);
    cluster.settle();
    cluster.wish("a").need = Some(Need { fingerprint: "otherwise".to_owned(), ..need(70) });
    cluster.step();
    assert_eq!(cluster.released(), ["a"]);
    let now = cluster.situation.now;
    cluster.situation.wishes.push(Wish { wanted_since: now, ..wish("b", 25) });
    cluster.step();
    assert_eq!(cluster.held("n1"), [("a", State::Releasing)], "70 + 25 of 90");
    cluster.settle();
    assert_eq!(cluster.held("n1"), [("a", State::Resident)]);
}
