//! The conditions: a table from what is the case to five verdicts, merged with what stood before.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kindling_api::{ConditionStatus, ConditionType, LocalModel};
use kindling_envelope::ledger::{Unusable, Verdict as Placed};
use kindling_proto::v1::ensure_model_response::State as EnsureState;
use kindling_proto::v1::get_model_info_response::State;
use kindling_proto::v1::{EnsureModelResponse, GetModelInfoResponse};

use crate::controller::Error;
use crate::facts::{FailureKind, Known};
use crate::observe::{Observed, ObservedCopy, Situation};
use crate::placement::Chosen;
use crate::reason::Reason;
use crate::validate::ValidateError;

/// The longest message; the API server allows 32768.
const MAX_MESSAGE_LENGTH: usize = 2048;
const MIB: u64 = 1 << 20;

/// What is to be said about one condition.
#[derive(Clone, Debug)]
pub struct Verdict {
    condition: ConditionType,
    status: ConditionStatus,
    reason: Reason,
    message: String,
}

/// Of a model whose spec is accepted: from its source to its readiness. Of several copies each condition is about the
/// first of which it does not hold; the model is ready while any of them serves.
pub fn of_observed(object: &LocalModel, observed: &Observed) -> Vec<Verdict> {
    let mut copies: Vec<Vec<Verdict>> = observed.copies().map(|copy| of_copy(object, copy, &observed.known)).collect();
    if copies.len() == 1 {
        return copies.remove(0);
    }
    let of_condition = |condition| {
        let of_copies: Vec<(usize, &Verdict)> = copies
            .iter()
            .enumerate()
            .filter_map(|(copy, verdicts)| {
                Some((copy, verdicts.iter().find(|verdict| verdict.condition == condition)?))
            })
            .collect();
        let serving = of_copies.iter().filter(|(_, verdict)| verdict.status == ConditionStatus::True).count();
        let with = |status| of_copies.iter().find(|(_, verdict)| verdict.status == status);
        let worst = with(ConditionStatus::False).or_else(|| with(ConditionStatus::Unknown));
        match worst {
            None => of_copies.first().map(|(_, verdict)| (*verdict).clone()),
            Some((copy, verdict)) if condition == ConditionType::Ready && serving > 0 => {
                let Verdict { reason, message, .. } = verdict;
                let all = copies.len();
                let words =
                    format!("{serving} of {all} copies answer requests; copy {copy}: {}: {message}", reason.as_str());
                Some(Verdict { message: words, ..serves() })
            }
            Some((copy, verdict)) => {
                Some(Verdict { message: format!("copy {copy}: {}", verdict.message), ..(*verdict).clone() })
            }
        }
    };
    ConditionType::ALL.into_iter().filter_map(of_condition).collect()
}

/// The reason that `Ready` would have, were this the only copy.
pub fn ready_reason(object: &LocalModel, observed: &Observed, copy: &ObservedCopy) -> &'static str {
    let verdicts = of_copy(object, copy, &observed.known);
    let ready = verdicts.iter().find(|verdict| verdict.condition == ConditionType::Ready);
    ready.map_or(Reason::Waiting, |ready| ready.reason).as_str()
}

fn of_copy(object: &LocalModel, copy: &ObservedCopy, known: &Known) -> Vec<Verdict> {
    let resolved = resolved(copy, known);
    let (downloaded, admitted) = (downloaded(object, copy, known), admitted(copy, known));
    let before = [Some(&resolved), downloaded.as_ref(), admitted.as_ref()];
    let obstacle = before.into_iter().flatten().find(|verdict| verdict.status == ConditionStatus::False).cloned();
    let [loaded, ready] = match (&copy.situation, obstacle) {
        (Situation::Unplaced, Some(obstacle)) => [
            Verdict::fails(ConditionType::Loaded, Reason::Waiting, "the weights and the memory come first"),
            Verdict::fails(ConditionType::Ready, obstacle.reason, &obstacle.message),
        ],
        // The kubelet's last word about the pod stands there, and nobody knows what has become of it.
        (Situation::Started { .. } | Situation::Replacing, Some(lost)) if lost.reason == Reason::NodeLost => {
            fails(ConditionType::Loaded, Reason::NodeLost, &lost.message)
        }
        (situation, _) => of_pod(situation, copy),
    };
    [Some(resolved), downloaded, admitted, Some(loaded), Some(ready)].into_iter().flatten().collect()
}

fn of_pod(situation: &Situation, observed: &ObservedCopy) -> [Verdict; 2] {
    match situation {
        Situation::Started { is_ready } => of_started(*is_ready, observed.info.as_ref()),
        Situation::Crashed { message, restarts } => {
            let message = format!("the runtime ended {}: {message}", times(*restarts));
            fails(ConditionType::Loaded, Reason::CrashLoop, &message)
        }
        before_start => {
            let failure = observed.outcome.as_ref().and_then(|outcome| outcome.failure.as_deref());
            if let (Situation::Unplaced, Some(failure)) = (before_start, failure) {
                return fails(ConditionType::Loaded, Reason::ApplyFailed, failure);
            }
            let (reason, message) = of_waiting_pod(before_start);
            fails(ConditionType::Loaded, reason, &message)
        }
    }
}

/// Whether the source is there and can be run, on the device that is asked for.
fn resolved(copy: &ObservedCopy, known: &Known) -> Verdict {
    let fails = |reason, message: &str| Verdict::fails(ConditionType::Resolved, reason, message);
    if let Some(refusal) = no_device(copy) {
        return fails(Reason::DeviceNotSupported, &refusal);
    }
    match (&known.facts, &known.failure) {
        (Some(facts), _) if !facts.not_runnable.is_empty() => {
            fails(Reason::NotRunnable, &format!("this version can't run it: {}", facts.not_runnable))
        }
        (None, Some(failure)) if failure.kind == FailureKind::NotFound => {
            fails(Reason::SourceNotFound, &failure.message)
        }
        (None, Some(failure)) if failure.kind == FailureKind::Invalid => fails(Reason::InvalidSource, &failure.message),
        _ => Verdict::holds(ConditionType::Resolved, Reason::Accepted, "the spec is valid"),
    }
}

/// Why no node has the device that is asked for.
fn no_device(copy: &ObservedCopy) -> Option<String> {
    copy.outcome.as_ref()?.chosen.as_ref().and_then(Chosen::refusal)
}

/// Nothing while it is not known: what stood there stays.
fn downloaded(object: &LocalModel, copy: &ObservedCopy, known: &Known) -> Option<Verdict> {
    let outcome = copy.outcome.as_ref();
    let waits_on = match outcome.map(|outcome| &outcome.verdict) {
        Some(Placed::WaitingForWeights { nodes }) => known.best_of(nodes).or_else(|| nodes.first().cloned()),
        _ => None,
    };
    let node = copy.node.as_deref().or_else(|| outcome?.node.as_deref()).or(waits_on.as_deref());
    let place = node.and_then(|node| known.places.get(node));
    let fails = |reason, message: &str| Verdict::fails(ConditionType::Downloaded, reason, message);
    Some(match place.map(|place| (place.state(), place)) {
        Some((EnsureState::Absent, _)) if waits_on.is_some() => {
            fails(Reason::Waiting, "the node's agent is told to bring them")
        }
        Some((EnsureState::Queued, _)) => fails(Reason::Downloading, "another download of the node comes first"),
        Some((EnsureState::Downloading, place)) => fails(Reason::Downloading, &download_progress(place)),
        Some((EnsureState::Failed, place)) if copy.pod_name.is_none() => fails(Reason::DownloadFailed, &place.message),
        Some(_) => on_node(object),
        // An operator that was restarted has not asked yet; a pod is made only where the weights are.
        None if copy.pod_name.is_some() => on_node(object),
        None if waits_on.is_some() => fails(Reason::Waiting, "the node's agent is being asked"),
        None => return None,
    })
}

/// Whether memory is reserved, and if not, why. Nothing before the first round: what stood there stays.
fn admitted(copy: &ObservedCopy, known: &Known) -> Option<Verdict> {
    let condition = ConditionType::MemoryAdmitted;
    let outcome = copy.outcome.as_ref()?;
    let words = outcome.verdict.to_string();
    let holds = |reason| Verdict::holds(condition, reason, &words);
    let fails = |reason| Verdict::fails(condition, reason, &words);
    if let (Placed::FactsUnknown | Placed::NoNode, Some(refusal)) = (&outcome.verdict, no_device(copy)) {
        return Some(Verdict::fails(condition, Reason::DeviceNotSupported, &refusal));
    }
    Some(match &outcome.verdict {
        Placed::Admitted { .. } => holds(Reason::Reserved),
        Placed::Overridden { .. } => holds(Reason::Overridden),
        Placed::NodeLost { .. } => fails(Reason::NodeLost),
        Placed::ChangeRefused { .. } => fails(Reason::ChangeDoesNotFit),
        Placed::Refused { .. } => fails(Reason::DoesNotFit),
        Placed::WaitingForMemory { .. } => fails(Reason::WaitingForMemory),
        Placed::WaitingForRelease { .. } => fails(Reason::WaitingForRelease),
        Placed::SwapDeferred { .. } => fails(Reason::SwapDeferred),
        Placed::WaitingForWeights { .. } => {
            let message = "it would fit; memory is reserved once the weights are on the node";
            Verdict { message: message.to_owned(), ..Verdict::unknown(condition) }
        }
        Placed::NoUsableNode { nodes } if nodes.iter().all(|(_, why)| *why == Unusable::NoAgent) => {
            fails(Reason::NoAgent)
        }
        Placed::NoUsableNode { .. } => fails(Reason::NoUsableNode),
        Placed::NoNode => fails(Reason::NoNode),
        Placed::OneCopyPerNode { .. } => fails(Reason::OneCopyPerNode),
        Placed::BackingOff { .. } => fails(Reason::RestartBackoff),
        Placed::Idle => fails(Reason::Idle),
        Placed::Suspended => fails(Reason::Suspended),
        Placed::FactsUnknown => match &known.failure {
            Some(failure) => {
                let reason = match failure.kind {
                    FailureKind::NotFound | FailureKind::Invalid => Reason::FactsUnknown,
                    FailureKind::Unreachable => Reason::SourceUnreachable,
                    FailureKind::NoAgent => Reason::NoAgent,
                };
                Verdict::fails(condition, reason, &failure.message)
            }
            None => Verdict::fails(condition, Reason::FactsUnknown, "a node's agent is being asked what it takes"),
        },
    })
}

fn download_progress(place: &EnsureModelResponse) -> String {
    let EnsureModelResponse { bytes, total_bytes, bytes_per_second, .. } = place;
    let of = if *total_bytes > 0 { format!(" of {}", total_bytes.div_ceil(MIB)) } else { String::new() };
    let rate = if *bytes_per_second > 0 { format!(", {} MiB/s", bytes_per_second / MIB) } else { String::new() };
    format!("{}{of} MiB{rate}", bytes / MIB)
}

/// Of a model whose spec is refused. Nothing that runs is touched: a pod of an earlier spec that serves goes on
/// serving, and the model stays ready for as long as it does. Without such a pod the model is not ready.
pub fn of_refusal(refusal: &ValidateError, is_serving: bool) -> Vec<Verdict> {
    let [refused, not_ready] = fails(ConditionType::Resolved, refusal.reason(), &refusal.to_string());
    vec![refused, if is_serving { serves() } else { not_ready }]
}

/// Of a model that could not be looked at or written. A model that serves goes on serving, so it stays ready.
pub fn of_error(error: &Error, is_ready: bool) -> Vec<Verdict> {
    if is_ready {
        return Vec::new();
    }
    let reason = match error {
        Error::Apply(_) => Reason::ApplyFailed,
        Error::Dereference(_) | Error::PatchStatus(_) | Error::Validate { .. } => Reason::ClusterUnreachable,
    };
    vec![Verdict::fails(ConditionType::Ready, reason, &error.with_sources())]
}

/// Puts verdicts over what stood before. A condition without a verdict stays; one that never had one is Unknown.
pub fn merge(old: &[Condition], verdicts: &[Verdict], generation: Option<i64>, now: Timestamp) -> Vec<Condition> {
    let merged = ConditionType::ALL.into_iter().map(|condition| {
        let before = old.iter().find(|found| found.type_ == condition.as_str());
        match verdicts.iter().find(|verdict| verdict.condition == condition) {
            Some(verdict) => verdict.to_condition(before, generation, now),
            None => before.cloned().unwrap_or_else(|| Verdict::unknown(condition).to_condition(None, generation, now)),
        }
    });
    merged.collect()
}

fn of_started(is_ready: bool, info: Option<&GetModelInfoResponse>) -> [Verdict; 2] {
    let loaded = || Verdict::holds(ConditionType::Loaded, Reason::Loaded, "the weights are in memory");
    let not_ready = |reason, message| Verdict::fails(ConditionType::Ready, reason, message);
    match info.map(GetModelInfoResponse::state) {
        Some(State::Draining) => [loaded(), not_ready(Reason::Draining, "the runtime finishes its requests and ends")],
        _ if is_ready => [loaded(), serves()],
        Some(State::Ready) => [
            loaded(),
            not_ready(Reason::AwaitingReadiness, "the model is loaded; waiting for the pod's readiness probe"),
        ],
        Some(State::Loading) if info.is_some_and(|info| !info.waiting_for.is_empty()) => fails(
            ConditionType::Loaded,
            Reason::WaitingForGrant,
            &info.map(|i| i.waiting_for.clone()).unwrap_or_default(),
        ),
        Some(State::Loading | State::Unspecified) => {
            fails(ConditionType::Loaded, Reason::Loading, &info.map(progress).unwrap_or_default())
        }
        None => fails(ConditionType::Loaded, Reason::Starting, "waiting for the runtime to answer"),
    }
}

fn of_waiting_pod(situation: &Situation) -> (Reason, String) {
    let advice = |message: &str, advice: &str| format!("{message}; {advice}");
    match situation {
        Situation::ScaledToZero => (Reason::ScaledToZero, "set spec.replicas to 1 to load the model".to_owned()),
        Situation::Ended { message } => (Reason::RestartBackoff, format!("the pod ended ({message}) and is replaced")),
        Situation::Pending => {
            (Reason::PodPending, "the pod waits for its node; kubectl describe pod shows what for".to_owned())
        }
        Situation::Unschedulable { message } => {
            (Reason::Unschedulable, advice(message, "change spec.placement or the nodes"))
        }
        Situation::ImagePull { message } => {
            (Reason::ImagePullFailed, advice(message, "check the chart's image values and the node's registry access"))
        }
        Situation::ConfigInvalid { message } => (Reason::ContainerConfigInvalid, message.clone()),
        Situation::Unplaced => (Reason::PodPending, "the pod is about to be made".to_owned()),
        _ => (Reason::ReplacingPod, "the previous pod must be gone before the next one starts".to_owned()),
    }
}

fn on_node(object: &LocalModel) -> Verdict {
    if object.spec.source.host_path.is_some() {
        Verdict::holds(ConditionType::Downloaded, Reason::OnNode, "the weights are read from the node")
    } else {
        Verdict::holds(ConditionType::Downloaded, Reason::Downloaded, "the weights are in the node's cache")
    }
}

fn serves() -> Verdict {
    Verdict::holds(ConditionType::Ready, Reason::Serving, "requests are answered")
}

fn progress(info: &GetModelInfoResponse) -> String {
    if info.total_bytes == 0 {
        return "the runtime reads the model's files".to_owned();
    }
    format!("{} of {} MiB", info.loaded_bytes / MIB, info.total_bytes.div_ceil(MIB))
}

fn times(restarts: i32) -> String {
    if restarts == 0 { "and is started again".to_owned() } else { format!("and was restarted {restarts} times") }
}

/// The condition does not hold, and therefore the model is not ready.
fn fails(condition: ConditionType, reason: Reason, message: &str) -> [Verdict; 2] {
    [Verdict::fails(condition, reason, message), Verdict::fails(ConditionType::Ready, reason, message)]
}

impl Verdict {
    fn holds(condition: ConditionType, reason: Reason, message: &str) -> Self {
        Self { condition, status: ConditionStatus::True, reason, message: message.to_owned() }
    }

    fn fails(condition: ConditionType, reason: Reason, message: &str) -> Self {
        Self { condition, status: ConditionStatus::False, reason, message: message.to_owned() }
    }

    fn unknown(condition: ConditionType) -> Self {
        let message = "not known yet".to_owned();
        Self { condition, status: ConditionStatus::Unknown, reason: Reason::Waiting, message }
    }

    /// The time of the last transition stays while the status stays.
    fn to_condition(&self, before: Option<&Condition>, generation: Option<i64>, now: Timestamp) -> Condition {
        let status = self.status.as_str();
        let since = before.filter(|before| before.status == status).map(|before| before.last_transition_time.clone());
        Condition {
            type_: self.condition.as_str().to_owned(),
            status: status.to_owned(),
            reason: self.reason.as_str().to_owned(),
            message: self.message.chars().take(MAX_MESSAGE_LENGTH).collect(),
            observed_generation: generation,
            last_transition_time: since.unwrap_or(Time(now)),
        }
    }
}
