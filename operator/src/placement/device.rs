//! On which device a model is computed, and where that leaves it to go. Pure.
//!
//! A copy that has a place is computed there by what that node has: nobody moves because a GPU appears elsewhere. One that
//! has none goes to a node with a GPU if there is one without another copy, and waits for room on those.

use std::collections::{BTreeMap, BTreeSet};

use kindling_api::{NodeEnvelope, NodeGpu, Reservation};
use kindling_envelope::Device;
use kindling_envelope::device::{Choice, Refusal, choose as choose_by_rule};
use kube::ResourceExt;

/// What nodes have, by their names.
pub type Gpus = BTreeMap<String, NodeGpu>;

/// What was chosen for a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// What computes it.
    pub device: Device,
    /// Where it may go then.
    pub nodes: BTreeSet<String>,
    /// What its nodes have.
    gpus: Gpus,
    /// The nodes that lack a GPU which can be used, and why.
    refused: BTreeMap<String, String>,
    /// Why the processor, by node.
    reasons: BTreeMap<String, String>,
}

/// Where the copies of a model are, as the one in question sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Places {
    /// Its own node.
    own: Option<String>,
    /// Those of the others.
    others: BTreeSet<String>,
}

impl Places {
    /// By what is reserved.
    pub fn of(envelopes: &[NodeEnvelope], uid: &str, copy: u32) -> Self {
        let nodes_of = |is_its: &dyn Fn(&Reservation) -> bool| -> BTreeSet<String> {
            let has = |envelope: &&NodeEnvelope| {
                envelope.spec.reservations.iter().any(|held| held.uid == uid && is_its(held))
            };
            envelopes.iter().filter(has).map(ResourceExt::name_any).collect()
        };
        let (own, others) = (nodes_of(&|held| held.copy == copy), nodes_of(&|held| held.copy != copy));
        Self { own: own.into_iter().next(), others }
    }
}

/// What agents say of their GPUs. Who has not looked is not there.
pub fn gpus(envelopes: &[NodeEnvelope]) -> Gpus {
    let told = envelopes.iter().filter_map(|envelope| {
        let gpu = envelope.status.as_ref()?.gpu.clone()?;
        Some((envelope.name_any(), gpu))
    });
    told.collect()
}

/// Chooses for a copy that may go to the nodes `allowed`. `asked` is nothing for the best that works; `not_computed` says
/// why a GPU can't compute it, and is nothing while that is not known.
pub fn choose(
    asked: Option<Device>,
    allowed: &BTreeSet<String>,
    gpus: &Gpus,
    not_computed: Option<&str>,
    places: &Places,
) -> Chosen {
    let check = |node: &String| {
        gpus.get(node).map_or_else(|| Err("its agent has not looked for a GPU yet".to_owned()), NodeGpu::check)
    };
    let model = || not_computed.map_or(Ok(()), |why| Err(why.to_owned()));
    let choices: BTreeMap<&String, Result<Choice, Refusal>> =
        allowed.iter().map(|node| (node, choose_by_rule(asked, || check(node), model))).collect();
    let device = asked.unwrap_or_else(|| best(&choices, places));
    let mut chosen = Chosen {
        device,
        nodes: BTreeSet::new(),
        gpus: Gpus::new(),
        refused: BTreeMap::new(),
        reasons: BTreeMap::new(),
    };
    for (node, choice) in choices {
        match choice {
            Err(Refusal::NoGpu(why)) => drop(chosen.refused.insert(node.clone(), why)),
            // What the model lacks is said of the model, and of no node.
            Err(Refusal::NotComputed(_)) => drop(chosen.nodes.insert(node.clone())),
            Ok(choice) if choice.device == device => {
                chosen.nodes.insert(node.clone());
                chosen.reasons.extend(choice.reason().map(|why| (node.clone(), why)));
            }
            Ok(_) => {}
        }
    }
    chosen.gpus =
        gpus.iter().filter(|(node, _)| allowed.contains(*node)).map(|(n, gpu)| (n.clone(), gpu.clone())).collect();
    chosen
}

/// What is best for a copy, by what is best on each node.
fn best(choices: &BTreeMap<&String, Result<Choice, Refusal>>, places: &Places) -> Device {
    let device_on = |node: &String| choices.get(node).and_then(|choice| choice.as_ref().ok()).map(|it| it.device);
    if let Some(device) = places.own.as_ref().and_then(device_on) {
        return device;
    }
    let has = |device| choices.keys().any(|node| device_on(node) == Some(device));
    let has_free =
        |device| choices.keys().any(|node| device_on(node) == Some(device) && !places.others.contains(*node));
    let is_gpu = has_free(Device::Cuda) || (has(Device::Cuda) && !has_free(Device::Cpu));
    if is_gpu { Device::Cuda } else { Device::Cpu }
}

impl Chosen {
    /// Why there is no node that it may go to, if that is for want of GPUs.
    pub fn refusal(&self) -> Option<String> {
        let nodes: Vec<String> = self.refused.iter().map(|(node, why)| format!("{node}: {why}")).collect();
        let is_refused = self.nodes.is_empty() && !nodes.is_empty();
        is_refused.then(|| {
            format!("spec.placement.device is Cuda, and no node has a GPU that can be used: {}", nodes.join("; "))
        })
    }

    /// The nodes whose GPU can be used.
    pub fn usable(&self) -> impl Iterator<Item = String> {
        self.gpus.iter().filter(|(_, gpu)| gpu.usable).map(|(node, _)| node.clone())
    }

    /// Whether every agent has looked at its GPU.
    pub fn is_certain(&self) -> bool {
        self.refused.keys().all(|node| self.gpus.contains_key(node))
    }

    /// What a node has.
    pub fn gpu(&self, node: &str) -> Option<&NodeGpu> {
        self.gpus.get(node)
    }

    /// Why the processor computes on a node that has a GPU, if nobody asked for it.
    pub fn reason(&self, node: &str) -> Option<&String> {
        self.reasons.get(node).filter(|_| self.gpu(node).is_some_and(|gpu| gpu.name.is_some()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpus() -> Gpus {
        let good = NodeGpu { name: Some("NVIDIA GB10".into()), usable: true, ..NodeGpu::default() };
        let old =
            NodeGpu { name: Some("NVIDIA GB10".into()), reason: Some("driver too old".into()), ..NodeGpu::default() };
        let none = NodeGpu { reason: Some("no NVIDIA driver".into()), ..NodeGpu::default() };
        [("good", good), ("none", none), ("old", old)].map(|(node, gpu)| (node.to_owned(), gpu)).into()
    }

    fn nodes(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn chosen(asked: Option<Device>, allowed: &BTreeSet<String>, not_computed: Option<&str>) -> Chosen {
        choose(asked, allowed, &gpus(), not_computed, &Places::default())
    }

    #[test]
    fn copy_that_has_a_place_is_computed_by_what_is_there() {
        let device = |own: &str, not_computed| {
            let places = Places { own: Some(own.to_owned()), ..Places::default() };
            choose(None, &nodes(&["good", "none"]), &gpus(), not_computed, &places).device
        };
        assert_eq!((device("none", None), device("good", None)), (Device::Cpu, Device::Cuda));
        assert_eq!(device("good", Some("recurrent layers")), Device::Cpu);
        assert_eq!(device("gone", None), Device::Cuda, "a node that it may not go to any more");
    }

    #[test]
    fn next_copy_takes_the_processor_of_another_node_when_all_gpus_have_a_copy() {
        let choice = |allowed: &[&str]| {
            let places = Places { own: None, others: nodes(&["good"]) };
            let chosen = choose(None, &nodes(allowed), &gpus(), None, &places);
            (chosen.device, chosen.nodes)
        };
        assert_eq!(choice(&["good", "none"]), (Device::Cpu, nodes(&["none"])));
        assert_eq!(choice(&["good"]), (Device::Cuda, nodes(&["good"])), "it waits there");
    }

    #[test]
    fn places_are_what_is_reserved() {
        let envelope = |name: &str, copy: u32| -> NodeEnvelope {
            let held = serde_json::json!({
                "uid": "uid-1", "copy": copy, "model": "models/a", "state": "Resident", "bytes": 1, "priority": 0,
                "since": "2026-11-22T00:00:00.000000Z", "madeAt": "2026-11-22T00:00:00.000000Z", "mayLeave": true,
                "loadTransientBytes": 0, "contextLength": 1, "fingerprint": "",
            });
            serde_json::from_value(serde_json::json!({
                "apiVersion": "kindling.dev/v1alpha1", "kind": "NodeEnvelope", "metadata": { "name": name },
                "spec": { "reservations": [held] },
            }))
            .unwrap()
        };
        let envelopes = [envelope("one", 0), envelope("two", 1)];
        let places = Places { own: Some("two".into()), others: nodes(&["one"]) };
        assert_eq!(Places::of(&envelopes, "uid-1", 1), places);
        assert_eq!(Places::of(&envelopes, "uid-2", 0), Places::default());
    }

    #[test]
    fn the_best_that_works_is_a_gpu_wherever_there_is_one() {
        let chosen = self::chosen(None, &nodes(&["good", "none", "old"]), None);
        assert_eq!((chosen.device, &chosen.nodes), (Device::Cuda, &nodes(&["good"])));
        assert_eq!((chosen.refusal(), chosen.reason("good")), (None, None));
    }

    #[test]
    fn else_it_is_the_processor_and_says_why_where_a_gpu_is() {
        let chosen = self::chosen(None, &nodes(&["none", "old", "silent"]), None);
        assert_eq!((chosen.device, &chosen.nodes), (Device::Cpu, &nodes(&["none", "old", "silent"])));
        assert_eq!(chosen.reason("old").unwrap(), "no GPU can be used: driver too old");
        assert_eq!((chosen.reason("none"), chosen.reason("silent")), (None, None));
        let chosen = self::chosen(None, &nodes(&["good", "none"]), Some("recurrent layers"));
        assert_eq!((chosen.device, &chosen.nodes), (Device::Cpu, &nodes(&["good", "none"])));
        assert_eq!(chosen.reason("good").unwrap(), "the GPU can't compute this model: recurrent layers");
    }

    #[test]
    fn a_gpu_that_is_named_leaves_the_nodes_that_have_one_or_says_what_each_lacks() {
        let asked = Some(Device::Cuda);
        let chosen = self::chosen(asked, &nodes(&["good", "none"]), None);
        assert_eq!((chosen.device, &chosen.nodes, chosen.refusal()), (Device::Cuda, &nodes(&["good"]), None));
        let chosen = self::chosen(asked, &nodes(&["none", "old"]), None);
        assert!(chosen.nodes.is_empty() && chosen.is_certain());
        let said = chosen.refusal().unwrap();
        assert!(said.ends_with("can be used: none: no NVIDIA driver; old: driver too old"), "{said}");
        let chosen = self::chosen(asked, &nodes(&["silent"]), None);
        assert!(!chosen.is_certain() && chosen.refusal().unwrap().contains("silent: its agent has not looked"));
        // What the model lacks is no node's fault.
        let chosen = self::chosen(asked, &nodes(&["good"]), Some("recurrent layers"));
        assert_eq!((&chosen.nodes, chosen.refusal()), (&nodes(&["good"]), None));
    }

    #[test]
    fn the_processor_that_is_named_is_everywhere() {
        let chosen = self::chosen(Some(Device::Cpu), &nodes(&["good", "none"]), None);
        assert_eq!((chosen.device, &chosen.nodes), (Device::Cpu, &nodes(&["good", "none"])));
        assert_eq!((chosen.refusal(), chosen.reason("good")), (None, None));
        assert_eq!(self::chosen(Some(Device::Cuda), &BTreeSet::new(), None).refusal(), None, "there is no node at all");
    }
}
