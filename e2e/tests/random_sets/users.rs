//! What people want, and what goes wrong: one random deed after the other.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::agent::{ABSENT, LATE};
use crate::api::{is_too_late, micros};
use crate::kubelet;
use crate::machine::{MIB, TOKEN_BYTES};
use crate::random::Random;
use crate::record::Kind;
use crate::set::{PLAYED, Set};

/// Of a program with this vocabulary, beside weights and cache: 16 MiB, and 320 bytes for each of 1000 entries.
const PROGRAM: u64 = 17 * MIB;

/// A model as its user wants it.
#[derive(Clone, Debug)]
pub struct Asked {
    pub name: String,
    pub uid: String,
    pub repo: String,
    pub tokens: u64,
    pub activation: &'static str,
    pub keep_alive: &'static str,
    pub min_resident: &'static str,
    pub priority: i64,
    pub warns: bool,
    pub replicas: u64,
    /// All nodes of the set, or one.
    pub node: Option<String>,
}

impl Asked {
    pub fn random(set: &str, number: u64, (nodes, largest): (&[String], u64), random: &mut Random) -> Self {
        // Some fit on no node.
        let most = if random.once_in(5) { largest / 4 * 5 } else { largest / 3 };
        let weights = random.between(256, most / MIB);
        let flag = |random: &mut Random, times, flag: &'static str| if random.once_in(times) { flag } else { "" };
        let (late, absent) = (flag(random, 10, LATE), flag(random, 5, ABSENT));
        let name = format!("{set}-m{number}");
        Self {
            repo: format!("played/{name}-w{weights}{late}{absent}"),
            name,
            uid: String::new(),
            tokens: random.between(2048, 65_536),
            activation: random.pick(&["Always", "Always", "OnDemand", "OnDemand", "OnDemand", "Suspended"]),
            keep_alive: random.pick(&["-1s", "0s", "1s", "2s", "5m"]),
            min_resident: random.pick(&["0s", "0s", "2s"]),
            priority: random.between(0, 4) as i64 / 2 - 1,
            warns: random.once_in(12),
            replicas: random.pick(&[1, 1, 1, 2, 3]),
            node: random.once_in(5).then(|| random.pick(nodes)),
        }
    }

    /// What it takes by the design's arithmetic, at most: nothing of what is rounded or learned makes it more.
    pub fn needs(&self) -> u64 {
        crate::agent::weights(&self.repo) + self.tokens * TOKEN_BYTES + PROGRAM
    }

    /// Whether it is to have memory without anybody's asking for it.
    pub fn is_wanted(&self) -> bool {
        self.activation == "Always" && self.replicas > 0
    }

    fn object(&self, set: &str) -> Value {
        let Self { repo, tokens, activation, priority, replicas, min_resident, .. } = self;
        let mut selector = json!({ PLAYED: set });
        if let Some(node) = &self.node {
            selector["kubernetes.io/hostname"] = json!(node);
        }
        let mut lifecycle = json!({ "activation": activation, "minResident": min_resident });
        if *activation == "OnDemand" {
            lifecycle["keepAlive"] = json!(self.keep_alive);
        }
        json!({
            "apiVersion": "kindling.dev/v1alpha1", "kind": "LocalModel", "metadata": { "name": self.name },
            "spec": {
                "source": { "hf": { "repo": repo } },
                "serving": { "contextLength": 2048, "maxConcurrency": 2, "kvCache": { "tokens": tokens } },
                "memory": { "priority": priority, "policy": if self.warns { "Warn" } else { "Enforce" } },
                "lifecycle": lifecycle,
                "placement": { "nodeSelector": selector, "tolerations": [{ "key": PLAYED, "operator": "Exists" }] },
                "replicas": replicas,
            },
        })
    }
}

impl Set {
    /// Writes what is asked; what is new gets its uid.
    pub async fn write(&mut self, index: usize) {
        let asked = &self.asked[index];
        let path = format!("{}/{}", self.models_path(), asked.name);
        let written = self.api.apply(&path, "user", &asked.object(&self.name)).await.expect("a model");
        self.asked[index].uid = written["metadata"]["uid"].as_str().expect("a uid").to_owned();
    }

    pub async fn remove(&mut self, index: usize) {
        let asked = self.asked.swap_remove(index);
        self.api.delete(&format!("{}/{}", self.models_path(), asked.name)).await.expect("the model is there");
    }

    /// One thing that somebody does, or that goes wrong.
    pub async fn deed(&mut self) {
        self.world.lock().figures.deeds += 1;
        let index = (!self.asked.is_empty()).then(|| self.random.next() as usize % self.asked.len());
        match (self.random.between(0, 25), index) {
            (0, Some(index)) if self.asked.len() > 2 => self.remove(index).await,
            (0..=1, _) | (_, None) => self.come().await,
            (2..=7, Some(index)) => self.change(index).await,
            (8..=17, Some(index)) => self.request(index).await,
            (18..=21, _) => self.end_pod().await,
            (22..=24, _) => self.trouble_node().await,
            _ => self.replace_node().await,
        }
    }

    pub async fn come(&mut self) {
        let (number, nodes) = (self.num_models, self.nodes.clone());
        let asked = Asked::random(&self.name, number, (&nodes, self.largest), &mut self.random);
        self.num_models += 1;
        self.asked.push(asked);
        self.write(self.asked.len() - 1).await;
    }

    async fn change(&mut self, index: usize) {
        let (random, asked) = (&mut self.random, &mut self.asked[index]);
        match random.between(0, 6) {
            0..=1 => asked.tokens = random.between(2048, 98_304),
            2..=3 => asked.replicas = random.pick(&[0, 0, 1, 1, 2]),
            4 => asked.priority = random.between(0, 2) as i64 - 1,
            _ => asked.activation = random.pick(&["Always", "OnDemand", "OnDemand", "Suspended"]),
        }
        self.write(index).await;
    }

    /// A request, as the gateway tells of it: it began just now or some time ago, and its model counts as used for another
    /// few seconds.
    async fn request(&mut self, index: usize) {
        let asked = &self.asked[index];
        if asked.activation != "OnDemand" {
            return;
        }
        let ago = |millis: u64| micros(Timestamp::now() - SignedDuration::from_millis(millis as i64));
        let last = self.random.between(4000, 9500);
        let since = if self.random.once_in(3) { 45_000 } else { last };
        let owner = json!({
            "apiVersion": "kindling.dev/v1alpha1", "kind": "LocalModel", "name": asked.name, "uid": asked.uid,
        });
        let name = format!("{}-use", asked.name);
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {
                "name": name, "ownerReferences": [owner],
                "labels": { "kindling.dev/model": asked.name, "app.kubernetes.io/managed-by": "kindling-gateway" },
            },
            "spec": { "holderIdentity": "kindling-gateway", "acquireTime": ago(since), "renewTime": ago(last) },
        });
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases/{name}", self.namespace);
        self.api.apply(&path, "kindling-gateway", &lease).await.expect("a lease");
    }

    /// Somebody deletes a pod, gently or by force, or its container ends, for good or not.
    async fn end_pod(&mut self) {
        let pods = self.record.live(Kind::Pod);
        let is_ours =
            |pod: &Value| pod["spec"]["nodeName"].as_str().is_some_and(|node| self.nodes.iter().any(|n| n == node));
        let pods: Vec<_> = pods.into_iter().filter(|pod| is_ours(pod)).collect();
        if pods.is_empty() {
            return;
        }
        let pod = self.random.pick(&pods);
        let metadata = &pod["metadata"];
        let name = metadata["name"].as_str().unwrap_or_default();
        let path = format!("/api/v1/namespaces/{}/pods/{name}", self.namespace);
        let deleted = match self.random.between(0, 5) {
            0..=1 => self.api.delete(&path).await,
            2 => self.api.finalise(&path, metadata["uid"].as_str().unwrap_or_default()).await,
            3 if self.random.once_in(3) => return kubelet::crash(&self.api, &self.world, &pod, true).await,
            _ => return kubelet::crash(&self.api, &self.world, &pod, false).await,
        };
        if let Err(error) = deleted {
            assert!(is_too_late(&error), "{name} is not deleted: {error}");
        }
    }

    /// Its agent falls silent, it comes under pressure, or it is cordoned for a while.
    async fn trouble_node(&mut self) {
        let node = self.random.pick(&self.nodes);
        let until = Instant::now() + Duration::from_millis(self.random.between(500, 2500));
        let what = self.random.between(0, 2);
        if what == 0 {
            let is_cordoned = !self.cordoned.remove(&node);
            if is_cordoned {
                self.cordoned.insert(node.clone());
            }
            return self.cordon(&node, is_cordoned).await;
        }
        let mut played = self.world.lock();
        let Some(machine) = played.machines.get_mut(&node) else { return };
        if what == 1 {
            machine.silent_until = Some(until);
        } else {
            machine.pressed_until = Some(until);
        }
    }
}
