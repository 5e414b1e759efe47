//! One set of models: its nodes come, its models live for some seconds, come to rest, and all of it goes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::task::JoinHandle;

use crate::api::Api;
use crate::checker::{bytes, kept_back, reservations};
use crate::machine::{GIB, Machine, World};
use crate::random::Random;
use crate::record::{Kind, Record};
use crate::users::Asked;
use crate::{agent, publish};

/// Label and taint of the nodes that are played.
pub const PLAYED: &str = "kindling.dev/played";
/// What people do goes on for so long.
const BUSY: Duration = Duration::from_secs(6);
/// Whoever waits without need for so long, waits for ever. A release that nothing can be compared with lasts 120 s, and its
/// model keeps the room to which it comes back.
const PATIENCE: Duration = Duration::from_secs(180);
const WORTH_TELLING: Duration = Duration::from_secs(15);

pub struct Set {
    pub api: Api,
    pub record: Record,
    pub world: World,
    pub namespace: String,
    pub name: String,
    pub random: Random,
    pub nodes: Vec<String>,
    /// The most that a model may have on the largest of them.
    pub largest: u64,
    pub cordoned: BTreeSet<String>,
    pub asked: Vec<Asked>,
    pub num_models: u64,
    agents: Vec<JoinHandle<()>>,
}

impl Set {
    pub async fn new(scene: &crate::Scene, number: u64) -> Self {
        let mut random = Random(scene.seed + number);
        let name = format!("s{number}");
        let num_nodes = random.between(1, 3);
        let nodes = (0..num_nodes).map(|node| format!("{}-{name}-{node}", scene.prefix)).collect();
        let mut set = Self {
            api: scene.api.clone(),
            record: scene.record.clone(),
            world: scene.world.clone(),
            namespace: scene.namespace.clone(),
            name,
            nodes,
            largest: 0,
            cordoned: BTreeSet::new(),
            asked: Vec::new(),
            num_models: 0,
            agents: Vec::new(),
            random,
        };
        for node in set.nodes.clone() {
            let machine = Machine::new(Random(set.random.next()));
            set.largest = set.largest.max(machine.total - kept_back(machine.total, machine.baseline) - GIB);
            set.world.lock().machines.insert(node.clone(), machine);
            set.add_node(&node).await;
            let (address, serving) = agent::serve().await;
            let (api, record, world) = (set.api.clone(), set.record.clone(), set.world.clone());
            set.agents.push(serving);
            set.agents.push(tokio::spawn(publish::play(api, record, world, (node, address))));
        }
        set
    }

    /// All of it; the answer is how long it took to come to rest.
    pub async fn live(mut self) -> Duration {
        for _ in 0..self.random.between(3, 8) {
            self.come().await;
        }
        let began = Instant::now();
        while began.elapsed() < BUSY {
            self.deed().await;
            let pause = self.random.between(20, 350);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        let rest = self.come_to_rest().await;
        self.end().await;
        let mut played = self.world.lock();
        played.figures.sets += 1;
        played.figures.nodes += self.nodes.len() as u64;
        played.figures.models += self.num_models;
        rest
    }

    /// Nothing more goes wrong: whoever could have memory gets it, and whoever has it serves.
    async fn come_to_rest(&mut self) -> Duration {
        for node in std::mem::take(&mut self.cordoned) {
            self.cordon(&node, false).await;
        }
        let began = Instant::now();
        let (mut rested, mut last) = (0, Vec::new());
        while rested < 5 {
            let unrest = self.unrest();
            if began.elapsed() >= PATIENCE {
                self.describe().await;
                let text = format!("{} does not come to rest: {unrest:#?}", self.name);
                self.world.lock().complaints.push(text);
                break;
            }
            rested = if unrest.is_empty() { rested + 1 } else { 0 };
            last = if unrest.is_empty() { last } else { unrest };
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let rest = began.elapsed();
        if rest >= WORTH_TELLING {
            println!("{} came to rest after {:.1} s; the last was {last:?}", self.name, rest.as_secs_f64());
        }
        rest
    }

    /// What is said of models and nodes where something does not come to rest.
    async fn describe(&self) {
        let models = self.api.get(&self.models_path()).await.unwrap_or_default();
        for model in models["items"].as_array().into_iter().flatten() {
            let name = model["metadata"]["name"].as_str().unwrap_or_default();
            if name.starts_with(&format!("{}-", self.name)) {
                println!("{name}: {} {}", model["spec"], model["status"]);
            }
        }
        for node in &self.nodes {
            let object = self.api.get(&format!("/api/v1/nodes/{node}")).await.unwrap_or_default();
            println!("{node}: {} {}", object["spec"], object["status"]["conditions"]);
            println!("{node}: {}", self.record.find(Kind::Ledger, node).unwrap_or_default());
        }
    }

    /// Who waits without need, and what is not done.
    fn unrest(&self) -> Vec<String> {
        let mut unrest = Vec::new();
        // Nodes, by the copies that have a place there.
        let mut placed: BTreeMap<(String, u64), &String> = BTreeMap::new();
        for node in &self.nodes {
            let Some(ledger) = self.record.find(Kind::Ledger, node) else {
                unrest.push(format!("{node} has no ledger"));
                continue;
            };
            for held in reservations(&ledger) {
                let copy = (held["uid"].as_str().unwrap_or_default().to_owned(), held["copy"].as_u64().unwrap_or(0));
                if let Some(other) = placed.insert(copy, node) {
                    unrest.push(format!("{} is on {other} and on {node}", held["model"]));
                }
                // Memory that nothing measured tells from another's is waited for, up to two minutes.
                let is_awaited = held["state"] == "Releasing" && held["podGoneAt"].is_string();
                // What fits nowhere waits for its agent, which has nothing for it.
                if held["state"] != "Resident" && !is_awaited && held["isOverridden"] != true {
                    unrest.push(format!("{node}: {} is {}", held["model"], held["state"]));
                }
            }
        }
        for asked in self.asked.iter().filter(|asked| asked.is_wanted()) {
            let places: Vec<&String> =
                placed.iter().filter(|((uid, _), _)| *uid == asked.uid).map(|(_, node)| *node).collect();
            let nodes = self.nodes.iter().filter(|node| asked.node.as_ref().is_none_or(|only| only == *node));
            let nodes = nodes.filter(|node| !places.contains(node));
            let room = nodes.filter_map(|node| self.room(node)).max().unwrap_or(0);
            let is_whole = (0..asked.replicas).all(|copy| placed.contains_key(&(asked.uid.clone(), copy)));
            if !is_whole && room >= asked.needs() {
                unrest.push(format!("{} takes {} and waits, {room} are free", asked.name, asked.needs()));
            }
        }
        unrest
    }

    /// What is promised to nobody on a node.
    fn room(&self, node: &str) -> Option<u64> {
        let ledger = self.record.find(Kind::Ledger, node)?;
        let memory = &ledger["status"]["memory"];
        let (total, baseline) = (memory["totalBytes"].as_u64()?, bytes(memory, "baselineBytes"));
        let held: u64 = reservations(&ledger).iter().map(|held| bytes(held, "bytes")).sum();
        let is_overridden = reservations(&ledger).iter().any(|held| held["isOverridden"] == true);
        // What each takes while it loads.
        let loading = 32 << 20;
        (!is_overridden).then(|| total.saturating_sub(kept_back(total, baseline) + held + loading))
    }

    /// Everything goes, and nothing is left.
    async fn end(&mut self) {
        while !self.asked.is_empty() {
            self.remove(0).await;
        }
        let is_left = |set: &Self| -> Vec<String> {
            let held = set.nodes.iter().filter_map(|node| set.record.find(Kind::Ledger, node));
            let held = held.filter(|ledger| !reservations(ledger).is_empty());
            let pods = set.record.live(Kind::Pod);
            let prefix = format!("{}-m", set.name);
            let is_its = |pod: &&std::sync::Arc<Value>| {
                pod["metadata"]["name"].as_str().is_some_and(|name| name.starts_with(&prefix))
            };
            let pods = pods.iter().filter(is_its).map(|pod| pod["metadata"].to_string());
            held.map(|ledger| ledger["spec"].to_string()).chain(pods).collect()
        };
        self.wait("is not empty", is_left).await;
        for agent in self.agents.drain(..) {
            agent.abort();
        }
        for node in self.nodes.clone() {
            self.remove_node(&node).await;
            self.world.lock().machines.remove(&node);
        }
        self.wait("has ledgers without nodes", |set| {
            let left = set.nodes.iter().filter(|node| set.record.find(Kind::Ledger, node).is_some());
            left.cloned().collect()
        })
        .await;
    }

    async fn wait(&self, what: &str, left: impl Fn(&Self) -> Vec<String>) {
        let began = Instant::now();
        loop {
            let left = left(self);
            if left.is_empty() {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{} {what}: {left:#?}", self.name);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub fn models_path(&self) -> String {
        format!("/apis/kindling.dev/v1alpha1/namespaces/{}/localmodels", self.namespace)
    }
}
