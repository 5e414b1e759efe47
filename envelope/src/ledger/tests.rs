//! One test for each rule.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::{Activations, Bytes, CacheLayers, Device, Footprint, KvDtype, Model, Pool, Serving};

/// Between two looks of the caller, in milliseconds.
const TICK: u64 = 1000;

/// A node of 100 GiB, of which 10 are kept for the system.
fn node(name: &str) -> NodeFacts {
    NodeFacts {
        name: name.to_owned(),
        total: Bytes::gib(100),
        baseline: Bytes::gib(2),
        others: Bytes(0),
        measured: None,
        agent: true,
        pressure: false,
        lost: false,
        cordoned: false,
        reservations: Vec::new(),
    }
}

/// Of so many GiB, with 1 GiB more while it loads.
fn need(gib: u64) -> Need {
    let nothing = Bytes(0);
    let model = Model {
        weights: Bytes::gib(gib),
        largest_tensor: Bytes::gib(1),
        vocabulary: Some(128_256),
        cache: vec![CacheLayers::Full { layers: 1, kv_heads: 1, head_dim: 1024 }],
        activations: Activations::Planned { fixed: nothing, per_token: nothing, per_sequence: nothing },
        max_context: 131_072,
    };
    let serving = Serving {
        context: 4096,
        concurrency: 4,
        pool: Pool::Contexts(2),
        max_batched_tokens: 2048,
        kv_dtype: KvDtype::Bf16,
        device: Device::Cpu,
    };
    let footprint = Footprint {
        weights: Bytes::gib(gib),
        kv_cache: nothing,
        activations: nothing,
        runtime: nothing,
        load_transient: Bytes::gib(1),
    };
    Need { footprint, model, serving, fingerprint: "as asked".to_owned() }
}

fn wish(name: &str, gib: u64) -> Wish {
    let everywhere: BTreeSet<String> = ["n1", "n2"].into_iter().map(str::to_owned).collect();
    Wish {
        key: name.to_owned(),
        name: format!("default/{name}"),
        model: name.to_owned(),
        need: Some(need(gib)),
        priority: 0,
        activation: Activation::Always,
        wanted_since: Time(0),
        last_used: None,
        min_resident: Duration::from_secs(60),
        load_time: None,
        policy: Policy::Enforce,
        nodes: everywhere.clone(),
        weights_on: everywhere,
        not_before: None,
    }
}

/// A cluster that does what it is told, at once.
struct Cluster {
    situation: Situation,
    plan: Plan,
}

impl Cluster {
    fn new(nodes: &[&str], wishes: Vec<Wish>) -> Self {
        let nodes = nodes.iter().map(|name| node(name)).collect();
        let situation = Situation { now: Time(1_000_000), wishes, nodes, pods: Vec::new() };
        let mut cluster = Self { situation, plan: Plan::default() };
        cluster.measure();
        cluster
    }

    fn measure(&mut self) {
        for node in &mut self.situation.nodes {
            let pods = self.situation.pods.iter().filter(|pod| pod.node == node.name);
            let held: Bytes = pods.map(|pod| pod.terms.bytes).sum();
            let available = node.total.saturating_sub(node.baseline + held);
            node.measured = Some(Measured { available, at: self.situation.now });
        }
    }

    /// Plans, writes, and does with the pods what the plan says.
    fn step(&mut self) {
        self.situation.now.0 += TICK;
        self.plan = plan(&self.situation);
        for node in &mut self.situation.nodes {
            if let Some(written) = self.plan.ledgers.get(&node.name) {
                node.reservations.clone_from(written);
            }
        }
        for step in &self.plan.pods {
            match step {
                PodStep::Delete { key, .. } => self.situation.pods.retain(|pod| pod.key != *key),
                PodStep::Make { node, key } => {
                    let nodes = &self.situation.nodes;
                    let mut held = nodes.iter().flat_map(|node| &node.reservations);
                    let held = held.find(|held| held.key == *key).expect("a pod follows a reservation");
                    let (name, model, terms) = (held.name.clone(), held.model.clone(), held.terms.clone());
                    let (phase, since) = (PodPhase::Starting, self.situation.now);
                    let node = node.clone();
                    self.situation.pods.push(Pod { key: key.clone(), name, model, node, phase, since, terms });
                }
            }
        }
    }

    /// Steps until nothing changes, with measurements and pods that become ready.
    fn settle(&mut self) {
        for _ in 0..50 {
            self.step();
            for pod in &mut self.situation.pods {
                pod.phase = PodPhase::Ready;
            }
            self.measure();
        }
        self.step();
        assert!(self.plan.ledgers.is_empty() && self.plan.pods.is_empty(), "{:?}", self.plan);
    }

    fn verdict(&self, key: &str) -> &Verdict {
        &self.plan.verdicts[key]
    }
}

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

fn on_demand(name: &str, gib: u64) -> Wish {
    let activation = Activation::OnDemand { keep_alive: None, requested: false };
    Wish { activation, ..wish(name, gib) }
}

impl Cluster {
    fn wish(&mut self, key: &str) -> &mut Wish {
        self.situation.wishes.iter_mut().find(|wish| wish.key == key).expect("it is wished")
    }

    fn node(&mut self, name: &str) -> &mut NodeFacts {
        self.situation.nodes.iter_mut().find(|node| node.name == name).expect("it exists")
    }

    /// A request waits for it from now on.
    fn request(&mut self, key: &str) {
        let now = self.situation.now;
        let wish = self.wish(key);
        wish.wanted_since = now;
        wish.last_used = Some(now);
        let Activation::OnDemand { keep_alive, .. } = wish.activation else { panic!("{key} is not on demand") };
        wish.activation = Activation::OnDemand { keep_alive, requested: true };
    }

    /// All requests for it are over.
    fn answer(&mut self, key: &str) {
        let now = self.situation.now;
        let wish = self.wish(key);
        wish.last_used = Some(now);
        let Activation::OnDemand { keep_alive, .. } = wish.activation else { panic!("{key} is not on demand") };
        wish.activation = Activation::OnDemand { keep_alive, requested: false };
    }

    fn wait(&mut self, seconds: u64) {
        self.situation.now.0 += seconds * 1000;
        self.measure();
    }

    /// Those that are requested and serve, before anything else happens.
    fn with_served(wishes: Vec<Wish>) -> Self {
        let mut cluster = Self::new(&["n1"], wishes);
        let on_demand = |wish: &&Wish| matches!(wish.activation, Activation::OnDemand { .. });
        let keys: Vec<String> =
            cluster.situation.wishes.iter().filter(on_demand).map(|wish| wish.key.clone()).collect();
        keys.iter().for_each(|key| cluster.request(key));
        cluster.settle();
        keys.iter().for_each(|key| cluster.answer(key));
        cluster
    }

    fn held(&self, node: &str) -> Vec<(&str, State)> {
        let node = self.situation.nodes.iter().find(|facts| facts.name == node).expect("it exists");
        node.reservations.iter().map(|held| (held.key.as_str(), held.state)).collect()
    }

    fn released(&self) -> Vec<&str> {
        let is_release = |change: &&Change| matches!(change.step, Step::Release(_));
        self.plan.changes.iter().filter(is_release).map(|change| change.key.as_str()).collect()
    }
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
    cluster.situation.wishes.clear();
    cluster.step();
    assert_eq!(cluster.situation.nodes[0].reservations[0].available_before, None);
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

#[test]
fn copies_are_spread_and_share_a_node_only_where_they_must() {
    let copy = |number: u64| Wish { model: "a".to_owned(), ..wish(&format!("a-{number}"), 20) };
    let mut cluster = Cluster::new(&["n1", "n2"], vec![copy(0), copy(1), copy(2)]);
    cluster.settle();
    assert_eq!((cluster.held("n1").len(), cluster.held("n2").len()), (2, 1));
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
