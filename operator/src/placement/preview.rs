//! What would become of a model as somebody is about to ask for it, by what the last round knew. Pure.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Node;
use kindling_api::{LocalModel, NodeEnvelope};
use kindling_envelope::Model;
use kindling_envelope::ledger::{Activation, Policy, Situation, Verdict, Wish, plan};
use kube::ResourceExt;

use super::device::{Chosen, Gpus, Places, choose, gpus};
use super::ledger::key;
use super::situation::{allowed_nodes, need};
use crate::learned::correct;
use crate::validate::ValidatedModel;

/// What the last round was decided from.
#[derive(Clone, Debug)]
pub struct LastRound {
    nodes: Vec<Node>,
    /// Nodes that have an envelope and no measurement yet: nobody knows what would fit there.
    unmeasured: BTreeSet<String>,
    gpus: Gpus,
    situation: Situation,
}

impl LastRound {
    /// Of everything that a round read.
    pub fn new(nodes: Vec<Node>, envelopes: &[NodeEnvelope], situation: Situation) -> Self {
        let is_unmeasured = |envelope: &&NodeEnvelope| envelope.status.as_ref().is_none_or(|it| it.memory.is_none());
        let unmeasured = envelopes.iter().filter(is_unmeasured).map(ResourceExt::name_any).collect();
        Self { nodes, unmeasured, gpus: gpus(envelopes), situation }
    }

    /// What would compute a model, and where. `not_computed` says why a GPU can't.
    pub fn choose(&self, model: &ValidatedModel, not_computed: Option<&str>) -> Chosen {
        let allowed = allowed_nodes(&self.nodes, Some(model));
        choose(model.device, &allowed, &self.gpus, not_computed, &Places::default())
    }

    /// What a round would say of this model, were it asked for then, wanted at once and with its weights at hand. What
    /// it has of an earlier spec counts as gone, and its policy as `Enforce`: the answer is whether it fits.
    pub fn verdict(&self, object: &LocalModel, (model, chosen): (&ValidatedModel, &Chosen), facts: &Model) -> Verdict {
        let uid = &model.owner.uid;
        let mut situation = self.situation.clone();
        situation.wishes.retain(|wish| wish.model != *uid);
        situation.pods.retain(|pod| pod.model != *uid);
        for node in &mut situation.nodes {
            node.reservations.retain(|held| held.model != *uid);
        }
        let nodes = chosen.nodes.clone();
        let wish = Wish {
            key: key(uid, 0),
            name: format!("{}/{}", model.namespace, model.name),
            model: uid.clone(),
            need: Some(correct(object, need(model, facts, chosen.device))),
            priority: object.spec.memory.priority,
            activation: Activation::Always,
            wanted_since: situation.now,
            last_used: None,
            min_resident: object.spec.lifecycle.min_resident(),
            load_time: None,
            policy: Policy::Enforce,
            weights_on: nodes.clone(),
            nodes,
            not_before: None,
        };
        let key = wish.key.clone();
        situation.wishes.push(wish);
        plan(&situation).verdicts.remove(&key).unwrap_or(Verdict::FactsUnknown)
    }

    /// Whether a model may go to a node of which it is not known yet what fits there.
    pub fn has_unmeasured_node_for(&self, chosen: &Chosen) -> bool {
        !chosen.nodes.is_disjoint(&self.unmeasured)
    }
}
