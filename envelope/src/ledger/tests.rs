//! One test for each rule, by theme. Here is what they share: a cluster that does what it is told.

mod follow;
mod queue;
mod release;
mod unload;

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
