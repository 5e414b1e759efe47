//! Who gets memory where: reads what exists, lets the pure planner decide, writes the ledgers, then makes and deletes
//! pods. One task does this for all models, one round after the other, so that no two decisions are made at once.
//!
//! A pod follows from a reservation that was read, never from one that was only planned: whatever dies in between loses
//! nothing. Reconcile asks [`Placement::outcome`] for what to say about a model.

mod carry_out;
pub mod device;
mod ledger;
mod preview;
mod read;
mod situation;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kindling_api::LearnedTerms;
use kindling_envelope::Footprint;
use kindling_envelope::ledger::{Misfit, Verdict};
use kube::{Client, ResourceExt};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::config::OperatorConfig;
use carry_out::Failures;

use crate::facts::{Asked, Facts, FactsCache, Known};
use crate::learned::lessons;
use crate::named::Named;

pub use carry_out::{PlacementError, quantity};
pub use device::Chosen;
pub use ledger::{MODEL_COPY_SEPARATOR, PodTerms, pod_terms};
pub use preview::LastRound;
pub use read::World;
pub use situation::{Wished, need, planned_pod, serving};

/// A round is made at least so often: measurements age, and nobody tells.
const AT_LEAST_EVERY: Duration = Duration::from_secs(5);
/// Between two rounds: what comes in bursts is looked at once.
const PAUSE: Duration = Duration::from_millis(100);
/// After a round that failed.
const RETRY: Duration = Duration::from_secs(2);

/// What came out for a copy of a model in the last round.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Why it has memory or not.
    pub verdict: Verdict,
    /// What it takes as it is asked at present, where that is known.
    pub footprint: Option<Footprint>,
    /// Tokens per sequence as it is asked at present.
    pub context: Option<u64>,
    /// What the node has that the verdict is about, or the one with most room.
    pub room: Option<Room>,
    /// Where its pod is to be, and is.
    pub node: Option<String>,
    /// What computes it, and where it may go for that.
    pub chosen: Option<Chosen>,
    /// Why its pod could not be made or deleted.
    pub failure: Option<String>,
    /// What was measured of it, if it serves as it is asked to.
    pub lesson: Option<LearnedTerms>,
}

/// Memory of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// Its name.
    pub node: String,
    /// `MemTotal`.
    pub total: u64,
    /// Kept for the system and for others.
    pub system: u64,
    /// By models.
    pub held: u64,
}

/// What is said about models.
#[derive(Debug, Default, PartialEq)]
struct Said {
    /// By key of the copy.
    outcomes: BTreeMap<String, Outcome>,
    /// By uid.
    known: BTreeMap<String, Known>,
}

/// Decides and carries out.
pub struct Placement {
    client: Client,
    config: OperatorConfig,
    facts: Arc<FactsCache>,
    named: Named,
    wake: Arc<Notify>,
    said: Mutex<Said>,
    last_round: Mutex<Option<Arc<LastRound>>>,
    /// Uids of models that reconcile refuses, for reasons that are not in their spec.
    refused: Mutex<BTreeSet<String>>,
    /// By key of the copy: not to be tried again before.
    not_before: Mutex<BTreeMap<String, Timestamp>>,
    changed: mpsc::UnboundedSender<()>,
}

impl Placement {
    /// Sends on `changed` when there is something new to be said about any model.
    pub fn new(
        client: Client,
        config: OperatorConfig,
        facts: Arc<FactsCache>,
        wake: Arc<Notify>,
        changed: mpsc::UnboundedSender<()>,
    ) -> Self {
        let (said, last_round) = (Mutex::default(), Mutex::default());
        let (refused, not_before) = (Mutex::default(), Mutex::default());
        let named = Named::new(facts.agents());
        Self { client, config, facts, named, wake, said, last_round, refused, not_before, changed }
    }

    /// Something changed: look soon.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Whether reconcile refuses the model of this uid: it gets no memory then, and keeps what it has.
    pub fn set_refused(&self, uid: &str, is_refused: bool) {
        let mut refused = lock(&self.refused);
        if is_refused {
            refused.insert(uid.to_owned());
        } else {
            refused.remove(uid);
        }
    }

    /// What came out in the last round for a copy of a model, by the model's uid.
    pub fn outcome(&self, uid: &str, copy: u32) -> Option<Outcome> {
        lock(&self.said).outcomes.get(&ledger::key(uid, copy)).cloned()
    }

    /// What is known of a model's weights.
    pub fn known(&self, asked: &Asked) -> Known {
        self.facts.known(asked)
    }

    /// What was known in the last round of the weights of the model of this uid, for the device that is to compute it.
    pub fn known_of(&self, uid: &str) -> Known {
        lock(&self.said).known.get(uid).cloned().unwrap_or_default()
    }

    /// What is known of the same weights, served otherwise.
    pub fn known_of_weights(&self, asked: &Asked) -> Option<Facts> {
        self.facts.of_weights(asked)
    }

    /// What the last round was decided from; nothing before the first one.
    pub fn last_round(&self) -> Option<Arc<LastRound>> {
        lock(&self.last_round).clone()
    }

    /// Makes rounds until the token is cancelled.
    pub async fn run(&self, shutdown: CancellationToken) {
        let mut wait = Duration::ZERO;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.wake.notified() => tokio::time::sleep(PAUSE).await,
                () = tokio::time::sleep(wait) => {}
            }
            wait = match self.round().await {
                Ok(next) => next.min(AT_LEAST_EVERY),
                Err(error) if error.is_conflict() => PAUSE,
                Err(error) => {
                    tracing::warn!(error = error.with_sources(), "placing models fails");
                    RETRY
                }
            };
        }
    }

    /// One round. The answer is how soon the next one is worth making, if nothing happens.
    ///
    /// # Errors
    /// If the API server does not answer or refuses; what was done is done, and the next round goes on from there.
    pub async fn round(&self) -> Result<Duration, PlacementError> {
        let world = read::read(&self.client, &self.config).await?;
        let now = Timestamp::now();
        let wished = self.wished(&world, now);
        let situation = situation::situation(&world, &wished, now);
        let plan = kindling_envelope::ledger::plan(&situation);
        for change in &plan.changes {
            tracing::info!(node = change.node, model = change.name, step = ?change.step, "ledger");
        }
        let failures = carry_out::carry_out(&self.client, &self.config, (&world, &wished), &plan).await;
        self.ask_agents(&world, &wished, &plan.verdicts);
        let mut outcomes = situation::outcomes(&situation, &wished, &plan);
        for (key, error) in &failures.pods {
            if let Some(outcome) = outcomes.get_mut(key) {
                outcome.failure = Some(error.with_sources());
            }
        }
        let lessons = lessons(&world, &wished);
        for (key, outcome) in &mut outcomes {
            outcome.lesson = lessons.get(ledger::split_key(key).0).cloned();
        }
        self.publish(&wished, outcomes);
        let soon = plan.look_again.map(|at| at.since(situation.now)).unwrap_or(AT_LEAST_EVERY);
        let last_round = LastRound::new(world.nodes, &world.envelopes, situation);
        *lock(&self.last_round) = Some(Arc::new(last_round));
        let Failures { ledgers, pods, volumes } = failures;
        if let Some(error) = ledgers.into_values().chain(pods.into_values()).chain(volumes).next() {
            return Err(error);
        }
        Ok(if plan.ledgers.is_empty() && plan.pods.is_empty() { soon.max(PAUSE) } else { PAUSE })
    }

    /// Every copy that is to have memory, with what only this process knows about it.
    fn wished(&self, world: &read::World, now: Timestamp) -> Vec<situation::Wished> {
        let mut wished = situation::wishes(world, &self.facts, &self.config, now);
        let refused = lock(&self.refused);
        let mut not_before = lock(&self.not_before);
        not_before.retain(|_, until| *until > now);
        not_before.extend(situation::backoffs(world, now));
        for wished in &mut wished {
            if refused.contains(&wished.wish.model) {
                (wished.wish.need, wished.model) = (None, None);
            }
            wished.wish.not_before = not_before.get(&wished.wish.key).map(|until| ledger::time(*until));
        }
        wished
    }

    /// Asks for what is missing: facts, and weights where they would fit.
    fn ask_agents(&self, world: &read::World, wished: &[situation::Wished], verdicts: &BTreeMap<String, Verdict>) {
        let sources: Vec<_> = wished.iter().flat_map(Wished::questions).collect();
        self.facts.keep_only(&sources);
        // An operator of one namespace doesn't know what those of others name.
        if self.config.namespace.is_none() {
            self.named.tell(&world.models, world.agents(&world.envelopes.iter().map(ResourceExt::name_any).collect()));
        }
        for wished in wished {
            let Some(asked) = &wished.asked else { continue };
            let agents = world.agents(&wished.wish.nodes);
            for question in wished.questions() {
                let agents = if question == *asked { agents.clone() } else { world.agents(&wished.gpu_nodes()) };
                self.facts.describe(&question, agents);
            }
            let known = self.facts.known(asked);
            let bring_to = match verdicts.get(&wished.wish.key) {
                Some(Verdict::WaitingForWeights { nodes }) => known.best_of(nodes),
                _ => None,
            };
            for (node, address) in &agents {
                let look_only = bring_to.as_deref() != Some(node);
                // Who is known to have nothing is not asked again for nothing.
                if !look_only || !known.is_absent(node) {
                    self.facts.ensure(&asked.weights, node, address, look_only);
                }
            }
        }
    }

    /// Tells reconcile if there is anything new to be said about any model.
    fn publish(&self, wished: &[situation::Wished], outcomes: BTreeMap<String, Outcome>) {
        let known = wished
            .iter()
            .filter_map(|wished| Some((wished.wish.model.clone(), self.facts.known(wished.asked.as_ref()?))));
        let said = Said { outcomes, known: known.collect() };
        let mut before = lock(&self.said);
        if *before != said {
            *before = said;
            // Nobody listens any more while the operator ends.
            let _ = self.changed.send(());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The misfits of a verdict that is a refusal.
pub fn misfits(verdict: &Verdict) -> &[Misfit] {
    match verdict {
        Verdict::Refused { misfits } => misfits,
        Verdict::ChangeRefused { misfit } => std::slice::from_ref(misfit),
        _ => &[],
    }
}
