//! What is known of models' weights: what they take, and on which nodes they are. Asked of the agents in the
//! background and kept in memory only; after a restart they are asked again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kindling_api::{Remainder, Serving};
use kindling_envelope::{Activations, Bytes, CacheLayers, Device, Model};
use kindling_proto::v1::cache_layers::Kind;
use kindling_proto::v1::ensure_model_response::State;
use kindling_proto::v1::model_source::Source;
use kindling_proto::v1::{
    CacheLayers as LayersMessage, DescribeModelRequest, DescribeModelResponse, Device as AskedDevice,
    EnsureModelRequest, EnsureModelResponse, HubModel, ModelSource, Remainder as AskedRemainder, ServingSettings,
};
use tokio::sync::Notify;
use tonic::{Code, Status};

use crate::agents::Agents;
use crate::validate::Weights;

/// What is said where nobody can be asked.
const NO_AGENT: &str = "no node that the model may go to has an agent of Kindling that answers; see whether its pods run: kubectl get pods -A -l app.kubernetes.io/component=agent";
/// How soon a question that failed is asked again.
const RETRY: Duration = Duration::from_secs(5);
/// How soon an agent is asked again how far a download is.
const POLL: Duration = Duration::from_secs(1);
/// How long it is believed that weights are where they were.
const RECHECK: Duration = Duration::from_secs(60);

/// What is asked: weights, and how they are to be served.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// Where they come from.
    pub weights: Weights,
    /// What decides how much is computed at a time.
    pub serving: Serving,
    /// What becomes of what is stored in 16 bits.
    pub remainder: Remainder,
    /// What is to compute it.
    pub device: Device,
}

impl Asked {
    fn key(&self) -> String {
        format!("{:?} {:?} {:?} {:?}", self.weights, self.serving, self.remainder, self.device)
    }

    fn to_question(&self) -> DescribeModelRequest {
        let Serving { context_length, max_concurrency, kv_cache, max_batched_tokens } = &self.serving;
        let serving = ServingSettings {
            context_length: *context_length,
            max_concurrency: Some(*max_concurrency),
            kv_tokens: kv_cache.tokens,
            max_batched_tokens: *max_batched_tokens,
            device: match self.device {
                Device::Cpu => AskedDevice::Cpu,
                Device::Cuda => AskedDevice::Cuda,
            }
            .into(),
            remainder: match self.remainder {
                Remainder::Keep => AskedRemainder::Unspecified,
                Remainder::Fp8 => AskedRemainder::Fp8,
            }
            .into(),
        };
        DescribeModelRequest { source: Some(to_source(&self.weights)), serving: Some(serving) }
    }
}

/// What is known of one source.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known {
    /// What it takes.
    pub facts: Option<Facts>,
    /// Why that is not known: the agents' last answer.
    pub failure: Option<Failure>,
    /// How far it is on each node.
    pub places: BTreeMap<String, EnsureModelResponse>,
}

/// What a model takes, and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// For the envelope.
    pub model: Model,
    /// For the status.
    pub architecture: String,
    /// Number of weights.
    pub parameters: u64,
    /// Format of most of them.
    pub quantization: String,
    /// As they lie in the files.
    pub stored_weight_bytes: u64,
    /// Why the runtime can't run it on the device in question; empty if it can.
    pub not_runnable: String,
    /// What the files are.
    pub digest: String,
}

/// Why something is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What to make of it.
    pub kind: FailureKind,
    /// In words.
    pub message: String,
}

/// What to make of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// There is no such source.
    NotFound,
    /// It is there and is no model, or not for us, or not to be served so.
    Invalid,
    /// Something did not answer.
    Unreachable,
    /// There is nobody to ask.
    NoAgent,
}

/// What is known of all sources that were asked for.
pub struct FactsCache {
    agents: Arc<dyn Agents>,
    changed: Arc<Notify>,
    entries: Mutex<BTreeMap<String, Entry>>,
}

#[derive(Default)]
struct Entry {
    known: Known,
    asking: BTreeSet<Question>,
    ask_again: BTreeMap<Question, Instant>,
}

/// About which node is asked what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Question {
    Describe,
    Ensure(String),
}

impl FactsCache {
    /// Notifies `changed` whenever something new is known.
    pub fn new(agents: Arc<dyn Agents>, changed: Arc<Notify>) -> Self {
        Self { agents, changed, entries: Mutex::default() }
    }

    /// Whom it asks.
    pub fn agents(&self) -> Arc<dyn Agents> {
        Arc::clone(&self.agents)
    }

    /// What is known now.
    pub fn known(&self, asked: &Asked) -> Known {
        let entries = self.lock();
        let described = entries.get(&asked.key()).map(|entry| entry.known.clone()).unwrap_or_default();
        let places = entries.get(&key(&asked.weights)).map(|entry| entry.known.places.clone());
        Known { places: places.unwrap_or_default(), ..described }
    }

    /// What is known of these weights on this device, however they are served: what is planned for a step may be another's.
    pub fn of_weights(&self, asked: &Asked) -> Option<Facts> {
        let (prefix, device) = (format!("{} ", key(&asked.weights)), format!(" {:?}", asked.device));
        let entries = self.lock();
        let mut served = entries.iter().filter(|(key, _)| key.starts_with(&prefix) && key.ends_with(&device));
        served.find_map(|(_, entry)| entry.known.facts.clone())
    }

    /// Asks what the model takes, unless that is known. `agents` are the nodes that may know, and their addresses; the
    /// ones that have the weights first.
    pub fn describe(self: &Arc<Self>, asked: &Asked, agents: Vec<(String, String)>) {
        if agents.is_empty() {
            self.lock().entry(asked.key()).or_default().known.failure =
                Some(Failure { kind: FailureKind::NoAgent, message: NO_AGENT.to_owned() });
            return;
        }
        if !self.begin(&asked.key(), &Question::Describe) {
            return;
        }
        let (cache, asked) = (Arc::clone(self), asked.clone());
        tokio::spawn(async move {
            let mut answer = Err(Status::unavailable("no agent was asked"));
            for (_, address) in agents {
                answer = cache.agents.describe(address, asked.to_question()).await;
                if answer.is_ok() {
                    break;
                }
            }
            cache.end(&asked.key(), &Question::Describe, |known| match answer.map_err(Failure::from).and_then(facts) {
                Ok(facts) => {
                    (known.facts, known.failure) = (Some(facts), None);
                    None
                }
                Err(failure) => {
                    known.failure = Some(failure);
                    Some(RETRY)
                }
            });
        });
    }

    /// Asks a node's agent how far the weights are there; unless it is only to look, it brings them.
    pub fn ensure(self: &Arc<Self>, weights: &Weights, node: &str, address: &str, look_only: bool) {
        let question = Question::Ensure(node.to_owned());
        if !self.begin(&key(weights), &question) {
            return;
        }
        let (cache, weights, node) = (Arc::clone(self), weights.clone(), node.to_owned());
        let address = address.to_owned();
        tokio::spawn(async move {
            let message = EnsureModelRequest { source: Some(to_source(&weights)), look_only };
            let answer = cache.agents.ensure(address, message).await;
            let mut is_under_way = false;
            cache.end(&key(&weights), &question, |known| {
                // An agent that is replaced goes on where it was: what it said last stands until it can be asked.
                let is_away = answer.as_ref().is_err_and(|status| status.code() == Code::Unavailable);
                if is_away && known.places.contains_key(&node) {
                    return Some(RETRY);
                }
                let answer = answer.unwrap_or_else(|status| EnsureModelResponse {
                    state: State::Failed.into(),
                    message: status.message().to_owned(),
                    ..EnsureModelResponse::default()
                });
                let again = match answer.state() {
                    State::Present => RECHECK,
                    State::Failed => RETRY,
                    State::Absent => Duration::ZERO,
                    _ => POLL,
                };
                is_under_way = again == POLL;
                known.places.insert(node, answer);
                Some(again)
            });
            if is_under_way {
                // Nothing else may happen until then, and whoever waits wants to see how far it is.
                tokio::time::sleep(POLL).await;
                cache.changed.notify_one();
            }
        });
    }

    /// Forgets sources that nobody names any more.
    pub fn keep_only(&self, asked: &[Asked]) {
        let keys: BTreeSet<String> = asked.iter().flat_map(|asked| [asked.key(), key(&asked.weights)]).collect();
        self.lock().retain(|key, _| keys.contains(key));
    }

    fn begin(&self, key: &str, question: &Question) -> bool {
        let mut entries = self.lock();
        let entry = entries.entry(key.to_owned()).or_default();
        let is_known = *question == Question::Describe && entry.known.facts.is_some();
        let is_early = entry.ask_again.get(question).is_some_and(|again| Instant::now() < *again);
        !is_known && !is_early && entry.asking.insert(question.clone())
    }

    fn end(&self, key: &str, question: &Question, note: impl FnOnce(&mut Known) -> Option<Duration>) {
        {
            let mut entries = self.lock();
            let Some(entry) = entries.get_mut(key) else { return };
            entry.asking.remove(question);
            if let Some(again) = note(&mut entry.known) {
                entry.ask_again.insert(question.clone(), Instant::now() + again);
            }
        }
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Of these nodes the one to bring the weights to: where they are on their way already, else where nothing failed yet.
    /// Nothing while it is not known of each whether it has them.
    pub fn best_of(&self, nodes: &[String]) -> Option<String> {
        if !nodes.iter().all(|node| self.places.contains_key(node)) {
            return None;
        }
        let rank = |node: &&String| match self.places.get(*node).map(EnsureModelResponse::state) {
            Some(State::Downloading | State::Queued) => 0,
            Some(State::Failed) => 2,
            _ => 1,
        };
        nodes.iter().min_by_key(rank).cloned()
    }

    /// Whether this node was asked and has nothing.
    pub fn is_absent(&self, node: &str) -> bool {
        self.places.get(node).is_some_and(|place| place.state() == State::Absent)
    }

    /// The nodes that have all of the weights.
    pub fn nodes(&self) -> BTreeSet<String> {
        let present = self.places.iter().filter(|(_, answer)| answer.state() == State::Present);
        present.map(|(node, _)| node.clone()).collect()
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let kind = match status.code() {
            Code::NotFound => FailureKind::NotFound,
            Code::InvalidArgument | Code::FailedPrecondition | Code::PermissionDenied => FailureKind::Invalid,
            _ => FailureKind::Unreachable,
        };
        Self { kind, message: status.message().to_owned() }
    }
}

fn key(weights: &Weights) -> String {
    format!("{weights:?}")
}

fn to_source(weights: &Weights) -> ModelSource {
    let source = match weights.clone() {
        Weights::Hub { repo, revision, files } => Source::Hub(HubModel { repo, revision, files }),
        Weights::HostPath { prefix, relative } => Source::HostPath(prefix.join(relative).display().to_string()),
    };
    ModelSource { source: Some(source) }
}

fn facts(answer: DescribeModelResponse) -> Result<Facts, Failure> {
    let damaged = || Failure {
        kind: FailureKind::Unreachable,
        message: "the agent's answer has a kind of layer without a name".into(),
    };
    let cache = answer.cache_layers.iter().map(layers).collect::<Option<Vec<_>>>().ok_or_else(damaged)?;
    let activations = answer.activations.map_or(Activations::Unplanned, |planned| Activations::Planned {
        fixed: Bytes(planned.fixed_bytes),
        per_token: Bytes(planned.per_token_bytes),
        per_sequence: Bytes(planned.per_sequence_bytes),
    });
    let model = Model {
        weights: Bytes(answer.resident_weight_bytes),
        largest_tensor: Bytes(answer.largest_tensor_bytes),
        vocabulary: Some(answer.vocabulary).filter(|entries| *entries > 0),
        cache,
        activations,
        max_context: u64::from(answer.max_context),
    };
    let DescribeModelResponse { architecture, parameters, quantization, stored_weight_bytes, .. } = answer;
    let DescribeModelResponse { not_runnable, digest, .. } = answer;
    Ok(Facts { model, architecture, parameters, quantization, stored_weight_bytes, not_runnable, digest })
}

fn layers(message: &LayersMessage) -> Option<CacheLayers> {
    let layers = message.layers;
    Some(match message.kind? {
        Kind::Full(full) => CacheLayers::Full { layers, kv_heads: full.kv_heads, head_dim: full.head_dim },
        Kind::Window(window) => {
            CacheLayers::Window { layers, kv_heads: window.kv_heads, head_dim: window.head_dim, window: window.window }
        }
        Kind::Latent(latent) => CacheLayers::Latent { layers, width: latent.width },
        Kind::State(state) => CacheLayers::State { layers, elements: state.elements },
    })
}
