//! From objects to what the planner is told, and from its plan to what is said about each model. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use k8s_openapi::jiff::Timestamp;
use kindling_api::{
    Activation as AskedActivation, ConditionType, KvCacheType, LocalModel, MODEL_LABEL, MemoryPolicy, NodeEnvelope,
    NodeEnvelopeStatus, Reservation as Written,
};
use kindling_envelope::ledger::{
    Activation, IN_USE_FOR, Measured, Need, NodeFacts, Plan, Pod as PlannedPod, PodPhase, Policy, Reservation,
    Situation, Terms, Wish, node_with,
};
use kindling_envelope::{Bytes, Device, KvDtype, Model, Pool, Serving};
use kube::ResourceExt;

use super::device::{Chosen, Places, choose, gpus};
use super::ledger::{key, pod_terms, time, to_planned};
use super::read::{World, has_agent};
use super::{Outcome, Room};
use crate::backoff::{backoff_until, has_finished};
use crate::build::pod_digest;
use crate::config::OperatorConfig;
use crate::dereference::References;
use crate::facts::{Asked, FactsCache};
use crate::learned::correct;
use crate::observe::{Situation as PodSituation, situation as pod_situation};
use crate::validate::{ValidatedModel, validate};

/// Longest context that is prepared unasked, in tokens; the runtime's own default.
const DEFAULT_MAX_CONTEXT: u64 = 65_536;
/// Tokens per step where the spec says nothing; the runtime's own default.
const DEFAULT_BATCHED_TOKENS: u64 = 512;
/// The KV cache holds so many full contexts where the spec says nothing.
const DEFAULT_CONTEXTS: u64 = 2;

/// One copy of a model that is to have memory.
#[derive(Clone, Debug)]
pub struct Wished {
    /// For the planner.
    pub wish: Wish,
    /// What its pod is built from; nothing if its spec is refused.
    pub model: Option<ValidatedModel>,
    /// What the agents are asked about it.
    pub asked: Option<Asked>,
    /// What computes it, and where.
    pub chosen: Option<Chosen>,
}

impl Wished {
    /// What the agents are asked about it: beside what is to compute it, whether a GPU could.
    pub fn questions(&self) -> Vec<Asked> {
        let other = self.model.as_ref().filter(|_| !self.gpu_nodes().is_empty()).map(|model| model.asked(Device::Cuda));
        let mut questions: Vec<Asked> = self.asked.iter().cloned().collect();
        questions.extend(other.filter(|other| !questions.contains(other)));
        questions
    }

    /// The nodes with a GPU that can be used, where that is a choice.
    pub fn gpu_nodes(&self) -> BTreeSet<String> {
        let is_free = self.model.as_ref().is_some_and(|model| model.device.is_none());
        self.chosen.iter().filter(|_| is_free).flat_map(Chosen::usable).collect()
    }
}

/// How a model is served, as it is asked for.
pub fn serving(asked: &kindling_api::Serving, model: &Model, device: Device) -> Serving {
    let context = asked.context_length.map_or_else(|| model.max_context.min(DEFAULT_MAX_CONTEXT), u64::from);
    Serving {
        context,
        concurrency: u64::from(asked.max_concurrency),
        pool: asked.kv_cache.tokens.map_or(Pool::Contexts(DEFAULT_CONTEXTS), |tokens| Pool::Tokens(u64::from(tokens))),
        max_batched_tokens: asked.max_batched_tokens.map_or(DEFAULT_BATCHED_TOKENS, u64::from),
        kv_dtype: match asked.kv_cache.kind {
            KvCacheType::Auto | KvCacheType::Bf16 => KvDtype::Bf16,
            KvCacheType::Fp8 => KvDtype::Fp8,
        },
        device,
    }
}

/// What a model takes, as it is asked for, on this device.
pub fn need(model: &ValidatedModel, facts: &Model, device: Device) -> Need {
    let serving = serving(&model.inputs.serving, facts, device);
    let fingerprint = pod_digest(&model.inputs, device);
    Need { footprint: facts.footprint(&serving), model: facts.clone(), serving, fingerprint }
}

/// Every copy that is to have memory.
pub fn wishes(world: &World, facts: &FactsCache, config: &OperatorConfig, now: Timestamp) -> Vec<Wished> {
    let live = world.models.iter().filter(|model| model.metadata.deletion_timestamp.is_none());
    live.flat_map(|model| (0..model.spec.replicas).map(move |copy| (model, copy)))
        .map(|(model, copy)| wish(world, facts, config, (model, copy, now)))
        .collect()
}

fn wish(
    world: &World,
    facts: &FactsCache,
    config: &OperatorConfig,
    (object, copy, now): (&LocalModel, u32, Timestamp),
) -> Wished {
    let uid = object.uid().unwrap_or_default();
    let validated = validate(object, &References::default(), config).ok();
    let chosen = validated.as_ref().map(|model| chosen(world, facts, model, &Places::of(&world.envelopes, &uid, copy)));
    let asked = validated.as_ref().zip(chosen.as_ref()).map(|(model, chosen)| model.asked(chosen.device));
    let known = asked.as_ref().map(|asked| facts.known(asked)).unwrap_or_default();
    let runnable = known.facts.as_ref().filter(|facts| facts.not_runnable.is_empty());
    let settled = validated.as_ref().zip(asked.as_ref()).zip(runnable);
    let need = settled.map(|((model, asked), facts)| correct(object, need(model, &facts.model, asked.device)));
    let spec = &object.spec;
    let last_use = world.last_use(object).filter(|_| spec.lifecycle.activation == AskedActivation::OnDemand);
    let wish = Wish {
        key: key(&uid, copy),
        name: format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any()),
        model: uid,
        need,
        priority: spec.memory.priority,
        activation: match spec.lifecycle.activation {
            AskedActivation::Always => Activation::Always,
            AskedActivation::OnDemand => {
                let is_recent = |(_, last): (Timestamp, Timestamp)| time(now).since(time(last)) < IN_USE_FOR;
                let requested = last_use.is_some_and(is_recent);
                Activation::OnDemand { keep_alive: spec.lifecycle.keep_alive(), requested }
            }
            AskedActivation::Suspended => Activation::Suspended,
        },
        wanted_since: time(wanted_since(object, last_use.map(|(since, _)| since)).unwrap_or(now)),
        last_used: last_use.map(|(_, last)| time(last)),
        min_resident: spec.lifecycle.min_resident(),
        load_time: None,
        policy: match spec.memory.policy {
            MemoryPolicy::Enforce => Policy::Enforce,
            MemoryPolicy::Warn => Policy::Warn,
        },
        nodes: match &chosen {
            Some(chosen) => chosen.nodes.clone(),
            None => allowed_nodes(&world.nodes, None),
        },
        weights_on: known.nodes(),
        not_before: None,
    };
    Wished { wish, model: validated, asked, chosen }
}

/// Whether a GPU can compute it is asked of the agents of nodes that have one.
fn chosen(world: &World, facts: &FactsCache, model: &ValidatedModel, places: &Places) -> Chosen {
    let known = facts.known(&model.asked(Device::Cuda)).facts;
    let not_computed = known.map(|facts| facts.not_runnable).filter(|why| !why.is_empty());
    let allowed = allowed_nodes(&world.nodes, Some(model));
    choose(model.device, &allowed, &gpus(&world.envelopes), not_computed.as_deref(), places)
}

/// Copies whose pods ended for good by themselves, by key, and when they are tried again. Who was told to end has not
/// failed.
pub fn backoffs(world: &World, now: Timestamp) -> Vec<(String, Timestamp)> {
    let ended = world.pods.iter().filter(|pod| has_finished(pod) && pod.metadata.deletion_timestamp.is_none());
    let until = ended.filter_map(|pod| {
        let owner = pod.owner_references().iter().find(|owner| owner.kind == "LocalModel")?;
        let model = world.models.iter().find(|model| model.uid().as_deref() == Some(owner.uid.as_str()))?;
        let ready = model.status.as_ref().and_then(|status| status.condition(ConditionType::Ready));
        let not_ready = ready.filter(|ready| ready.status != "True").map(|ready| ready.last_transition_time.0);
        Some((planned_pod(pod)?.key, backoff_until(pod, not_ready, now)))
    });
    until.collect()
}

/// Since when it waits for memory: since requests do, since its condition says so, or since it exists.
fn wanted_since(object: &LocalModel, requested_since: Option<Timestamp>) -> Option<Timestamp> {
    if requested_since.is_some() {
        return requested_since;
    }
    let condition = object.status.as_ref().and_then(|status| status.condition(ConditionType::MemoryAdmitted));
    let refused = condition.filter(|condition| condition.status == "False").map(|c| c.last_transition_time.0);
    refused.or_else(|| object.metadata.creation_timestamp.as_ref().map(|time| time.0))
}

/// The nodes that a model may go to, by its spec and their labels and taints.
pub(super) fn allowed_nodes(nodes: &[Node], model: Option<&ValidatedModel>) -> BTreeSet<String> {
    let is_allowed = |node: &&Node| {
        let Some(model) = model else { return true };
        let labels = node.metadata.labels.clone().unwrap_or_default();
        let selected = model.inputs.node_selector.iter().all(|(name, value)| labels.get(name) == Some(value));
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
        // Of taints that come and go with the node's state the planner is told otherwise.
        let keeps_out = |taint: &Taint| {
            taint.effect != "PreferNoSchedule" && !taint.key.starts_with("node.kubernetes.io/") && {
                !model.inputs.tolerations.iter().any(|toleration| tolerates(toleration, taint))
            }
        };
        selected && !taints.iter().any(keeps_out)
    };
    nodes.iter().filter(is_allowed).map(ResourceExt::name_any).collect()
}

/// As the scheduler sees it.
fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().is_none_or(|effect| effect.is_empty() || effect == taint.effect);
    let key = toleration.key.as_deref().unwrap_or_default();
    let is_exists = toleration.operator.as_deref() == Some("Exists");
    let named = key == taint.key || (key.is_empty() && is_exists);
    effect
        && named
        && (is_exists || toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default())
}

/// All that exists, as the planner knows it.
pub fn situation(world: &World, wished: &[Wished], now: Timestamp) -> Situation {
    Situation {
        now: time(now),
        wishes: wished.iter().map(|wished| wished.wish.clone()).collect(),
        nodes: world.envelopes.iter().filter_map(|envelope| node_facts(world, envelope, now)).collect(),
        pods: world.pods.iter().filter_map(planned_pod).collect(),
    }
}

/// Nothing while the agent has not measured it once, and nothing is promised there; nothing of a node that was removed
/// from the cluster, and took its memory along.
fn node_facts(world: &World, envelope: &NodeEnvelope, now: Timestamp) -> Option<NodeFacts> {
    let name = envelope.name_any();
    let node = world.node(&name)?;
    let status = envelope.status.clone().unwrap_or_default();
    let memory = status.memory?;
    let measured =
        status.measured_at.as_ref().map(|at| Measured { available: Bytes(memory.available_bytes), at: time(at.0) });
    Some(NodeFacts {
        total: Bytes(memory.total_bytes),
        baseline: Bytes(memory.baseline_bytes),
        others: Bytes(0),
        measured,
        agent: has_agent(envelope, now),
        pressure: status.pressure != kindling_api::Pressure::None,
        lost: !is_node_ready(node),
        cordoned: node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false),
        reservations: envelope.spec.reservations.iter().map(|written| measured_of(world, written, &status)).collect(),
        name,
    })
}

/// A reservation, with what its process was last measured to hold: that much is awaited when it goes.
fn measured_of(world: &World, written: &Written, status: &NodeEnvelopeStatus) -> Reservation {
    let planned = to_planned(written);
    let holder = status.holders.iter().find(|holder| {
        let pod = world.pods.iter().find(|pod| pod.uid().as_deref() == Some(holder.pod_uid.as_str()));
        pod.and_then(planned_pod).is_some_and(|pod| pod.key == planned.key)
    });
    let measured = holder.and_then(|holder| holder.measured).map(|terms| Bytes(terms.total_bytes));
    Reservation { measured: measured.or(planned.measured), ..planned }
}

fn is_node_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// A pod of ours; nothing if it says neither whose it is nor where.
pub fn planned_pod(pod: &Pod) -> Option<PlannedPod> {
    let owner = pod.owner_references().iter().find(|owner| owner.kind == "LocalModel")?;
    let terms = pod_terms(pod);
    let bound = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let node = bound.or_else(|| terms.as_ref().map(|terms| terms.node.clone()))?;
    let name = pod.labels().get(MODEL_LABEL).cloned().unwrap_or_default();
    let copy = pod.name_any().rsplit_once('-').and_then(|(_, copy)| copy.parse().ok()).unwrap_or(0);
    Some(PlannedPod {
        key: key(&owner.uid, copy),
        name: format!("{}/{name}", pod.namespace().unwrap_or_default()),
        model: owner.uid.clone(),
        node,
        phase: phase(pod),
        since: time(since(pod)),
        terms: terms.map_or_else(terms_of_unknown, |terms| Terms {
            bytes: Bytes(terms.bytes),
            load_transient: Bytes(terms.load_transient_bytes),
            context: terms.context_length,
            fingerprint: terms.fingerprint,
            overridden: terms.is_overridden,
        }),
    })
}

/// A pod of an operator that had no ledger yet: it is replaced, because its fingerprint is nobody's.
fn terms_of_unknown() -> Terms {
    Terms { bytes: Bytes(0), load_transient: Bytes(0), context: 0, fingerprint: String::new(), overridden: false }
}

/// Since when the pod is as far as it is: ready since its condition says so, leaving since it was told to, else made then.
fn since(pod: &Pod) -> Timestamp {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready" && condition.status == "True");
    let ready_at = ready.and_then(|condition| condition.last_transition_time.as_ref());
    let at = pod.metadata.deletion_timestamp.as_ref().or(ready_at).or(pod.metadata.creation_timestamp.as_ref());
    at.map_or_else(Timestamp::now, |time| time.0)
}

fn phase(pod: &Pod) -> PodPhase {
    if pod.metadata.deletion_timestamp.is_some() {
        PodPhase::Terminating
    } else if has_finished(pod) {
        PodPhase::Ended
    } else if pod_situation(pod) == (PodSituation::Started { is_ready: true }) {
        PodPhase::Ready
    } else {
        PodPhase::Starting
    }
}

/// What came out for each copy, by its key.
pub fn outcomes(situation: &Situation, wished: &[Wished], plan: &Plan) -> BTreeMap<String, Outcome> {
    let mut outcomes = BTreeMap::new();
    for wished in wished {
        let Some(verdict) = plan.verdicts.get(&wished.wish.key) else { continue };
        let need = wished.wish.need.as_ref();
        let node = verdict.node().map(str::to_owned);
        let facts = situation.nodes.iter().filter(|facts| wished.wish.nodes.contains(&facts.name));
        let facts = match &node {
            Some(node) => situation.nodes.iter().find(|facts| facts.name == *node),
            None => facts.max_by_key(|facts| room(facts, plan).free()),
        };
        let outcome = Outcome {
            verdict: verdict.clone(),
            footprint: need.map(|need| need.footprint),
            context: need.map(|need| need.serving.context),
            room: facts.map(|facts| room(facts, plan)),
            chosen: wished.chosen.clone(),
            node,
            failure: None,
            lesson: None,
        };
        outcomes.insert(wished.wish.key.clone(), outcome);
    }
    outcomes
}

fn room(facts: &NodeFacts, plan: &Plan) -> Room {
    let ledger: &[Reservation] = plan.ledgers.get(&facts.name).unwrap_or(&facts.reservations);
    let node = node_with(facts, ledger.iter(), |_| false);
    Room { node: facts.name.clone(), total: node.total.0, system: node.system().0, held: node.held().0 }
}

impl Room {
    fn free(&self) -> u64 {
        self.total.saturating_sub(self.system).saturating_sub(self.held)
    }
}
