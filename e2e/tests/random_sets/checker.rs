//! The independent checker: its own sums of the raw JSON, of every version that was written, in the order of the writes.
//! It shares no code with the operator, the planner or the API types.
//!
//! # What it does not complain of
//! - One reservation that is marked as overridden (`policy: Warn`) and has the node for itself: it fits nowhere, as its
//!   user was told.
//! - Pods on a node that is no part of the cluster, or whose ledger went with it, until the operator has written the new
//!   one: whatever is there then is adopted, and counts.
//! - A copy that was found so on a node that came back, beside the place that it was given elsewhere meanwhile, until that
//!   is given up: a node's ledger is an object of its own.
//! - In [`machine`](crate::machine): a start that finds its room taken within ten seconds after a container on the same
//!   machine began anew: the kubelet does that without asking, and the agent has the second one wait. And a start of what
//!   fits nowhere, which is the agent's to judge.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use crate::figures::Figures;
use crate::record::{Kind, Version};

const FLOOR: u64 = 8 << 30;

/// A copy of a model: its uid and number.
type Copy = (String, u64);

#[derive(Default)]
pub struct Checker {
    nodes: BTreeSet<String>,
    ledgers: BTreeMap<String, Arc<Value>>,
    pods: BTreeMap<String, Pod>,
    /// Pods that lost their ledger, by uid, until there is another.
    orphans: BTreeSet<String>,
    /// Copies that were found with a pod, while they have two places.
    found: BTreeSet<Copy>,
    last_revision: u64,
    pub figures: Figures,
    pub complaints: Vec<String>,
}

struct Pod {
    uid: String,
    node: String,
    copy: Copy,
    requested: u64,
}

impl Checker {
    /// Looks at the next versions. All of them are written later than the ones before.
    pub fn look(&mut self, versions: &[Version]) {
        for version in versions {
            self.figures.versions += 1;
            if version.revision < self.last_revision {
                self.complain(version, "came later than what was written after it: nothing is certain then");
            }
            self.last_revision = self.last_revision.max(version.revision);
            match version.kind {
                Kind::Node => self.node(version),
                Kind::Ledger => self.ledger(version),
                Kind::Pod => self.pod(version),
            }
            self.pods_have_reservations(version);
        }
    }

    fn node(&mut self, version: &Version) {
        if version.object.is_some() {
            self.nodes.insert(version.name.clone());
        } else {
            self.nodes.remove(&version.name);
        }
    }

    fn pod(&mut self, version: &Version) {
        let before = self.pods.remove(&version.name);
        let Some(object) = &version.object else { return };
        let Some(pod) = pod(&version.name, object) else { return self.complain(version, "is nobody's") };
        if before.as_ref().is_none_or(|before| before.uid != pod.uid) {
            self.figures.pods += 1;
            if !self.ledgers.contains_key(&pod.node) {
                self.orphans.insert(pod.uid.clone());
            }
        }
        self.pods.insert(version.name.clone(), pod);
    }

    fn ledger(&mut self, version: &Version) {
        let before = self.ledgers.remove(&version.name);
        let Some(object) = &version.object else {
            let lost = self.pods.values().filter(|pod| pod.node == version.name).map(|pod| pod.uid.clone());
            self.orphans.extend(lost);
            return;
        };
        self.figures.ledgers += 1;
        self.ledgers.insert(version.name.clone(), Arc::clone(object));
        self.fits(version, object);
        // The operator's first write to a new ledger knows all pods.
        if object["metadata"]["generation"].as_u64() > Some(1) {
            let here = self.pods.values().filter(|pod| pod.node == version.name);
            for pod in here.filter(|pod| self.orphans.remove(&pod.uid)) {
                self.figures.adoptions += 1;
                self.found.insert(pod.copy.clone());
            }
        }
        let (old, new) = (before.as_deref().map(reservations).unwrap_or_default(), reservations(object));
        self.compare(version, &old, &new);
        self.places(version);
    }

    /// All that is promised, with the most that one of them takes beside it while it loads, and what the system keeps.
    fn fits(&mut self, version: &Version, object: &Value) {
        let memory = &object["status"]["memory"];
        let Some(total) = memory["totalBytes"].as_u64() else { return };
        let held = reservations(object);
        let sum: u64 = held.iter().map(|held| bytes(held, "bytes")).sum();
        let largest = held.iter().map(|held| bytes(held, "loadTransientBytes")).max().unwrap_or(0);
        let kept = kept_back(total, bytes(memory, "baselineBytes"));
        let is_overridden = |held: &&&Value| held["isOverridden"] == true && bytes(held, "bytes") > 0;
        if held.iter().any(|held| is_overridden(&held)) {
            self.figures.overrides += 1;
            if held.len() > 1 {
                self.complain(version, "what fits nowhere has company");
            }
            return;
        }
        self.figures.most_held_percent = self.figures.most_held_percent.max((sum + largest + kept) * 100 / total);
        if sum + largest + kept > total {
            self.figures.over_commitments += 1;
            let text = format!("is over-committed: {sum} + {largest} are promised and {kept} kept of {total}");
            self.complain(version, &text);
        }
    }

    fn compare(&mut self, version: &Version, old: &[&Value], new: &[&Value]) {
        let made = |held: &Value| (copy(held), held["madeAt"].to_string());
        for held in new {
            let Some(before) = old.iter().find(|before| made(before) == made(held)) else {
                self.figures.admissions += 1;
                continue;
            };
            let has_changed = bytes(before, "bytes") != bytes(held, "bytes");
            if has_changed && !(held["podGoneAt"].is_string() && bytes(held, "bytes") == 0) {
                self.complain(version, &format!("changed what was promised: {before} to {held}"));
            }
        }
        let ended = old.iter().filter(|before| !new.iter().any(|held| made(held) == made(before)));
        self.figures.releases += ended.count() as u64;
    }

    /// Every copy has one, and a node one copy.
    fn places(&mut self, version: &Version) {
        let mut places: BTreeMap<Copy, Vec<&String>> = BTreeMap::new();
        let mut models: BTreeMap<(&String, String), u64> = BTreeMap::new();
        for (node, ledger) in &self.ledgers {
            for copy in reservations(ledger).into_iter().map(copy) {
                *models.entry((node, copy.0.clone())).or_default() += 1;
                places.entry(copy).or_default().push(node);
            }
        }
        let shared = models.iter().filter(|(_, copies)| **copies > 1);
        let mut complaints: Vec<String> = shared.map(|(model, copies)| format!("{model:?} has {copies}")).collect();
        places.retain(|_, nodes| nodes.len() > 1);
        self.found.retain(|copy| places.contains_key(copy));
        for (copy, nodes) in places {
            if self.found.contains(&copy) {
                self.figures.doubles += 1;
            } else {
                complaints.push(format!("{copy:?} has two places: {nodes:?}"));
            }
        }
        for text in complaints {
            self.complain(version, &text);
        }
    }

    fn pods_have_reservations(&mut self, version: &Version) {
        let mut complaints = Vec::new();
        for (name, pod) in &self.pods {
            let ledger = self.ledgers.get(&pod.node).filter(|_| self.nodes.contains(&pod.node));
            let Some(ledger) = ledger.filter(|_| !self.orphans.contains(&pod.uid)) else { continue };
            let held = reservations(ledger).into_iter().find(|held| copy(held) == pod.copy);
            let is_promised =
                held.is_some_and(|held| held["state"] == "Releasing" || bytes(held, "bytes") == pod.requested);
            if !is_promised {
                complaints.push(format!("{name} is on {} and was promised {held:?}", pod.node));
            }
        }
        for text in complaints {
            self.complain(version, &text);
        }
    }

    fn complain(&mut self, version: &Version, text: &str) {
        self.figures.complaints += 1;
        // One fault is seen in every version until it ends.
        if self.complaints.len() < 20 {
            self.complaints.push(format!("{:?} {} at {}: {text}", version.kind, version.name, version.revision));
        }
    }
}

/// What no model gets: the largest of a tenth, rounded up, and what others use with the floor.
pub fn kept_back(total: u64, baseline: u64) -> u64 {
    total.div_ceil(10).max(baseline + FLOOR.min(total / 12))
}

pub fn reservations(ledger: &Value) -> Vec<&Value> {
    ledger["spec"]["reservations"].as_array().into_iter().flatten().collect()
}

pub fn bytes(object: &Value, field: &str) -> u64 {
    object[field].as_u64().unwrap_or_else(|| panic!("{field} of {object} is no number of bytes"))
}

fn copy(held: &Value) -> Copy {
    (held["uid"].as_str().unwrap_or_default().to_owned(), held["copy"].as_u64().unwrap_or(0))
}

/// A model's pod, and where it is or is to be.
fn pod(name: &str, object: &Value) -> Option<Pod> {
    let owners = object["metadata"]["ownerReferences"].as_array()?;
    let owner = owners.iter().find(|owner| owner["kind"] == "LocalModel")?["uid"].as_str()?.to_owned();
    let terms = &object["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let wanted = &terms["nodeSelectorTerms"][0]["matchFields"][0]["values"][0];
    Some(Pod {
        uid: object["metadata"]["uid"].as_str()?.to_owned(),
        node: object["spec"]["nodeName"].as_str().or(wanted.as_str())?.to_owned(),
        copy: (owner, name.rsplit_once('-')?.1.parse().ok()?),
        requested: crate::kubelet::requested(object),
    })
}
