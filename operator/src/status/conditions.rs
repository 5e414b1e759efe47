//! The conditions: a table from what is the case to four verdicts, merged with what stood before.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kindling_api::{ConditionStatus, ConditionType, LocalModel};
use kindling_proto::v1::GetModelInfoResponse;
use kindling_proto::v1::get_model_info_response::State;

use crate::controller::Error;
use crate::observe::{Observed, Situation};
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

/// Of a model whose spec is accepted.
pub fn of_observed(object: &LocalModel, observed: &Observed) -> Vec<Verdict> {
    let resolved = Verdict::holds(ConditionType::Resolved, Reason::Accepted, "the spec is valid");
    let mut verdicts = vec![resolved];
    match &observed.situation {
        Situation::Started { is_ready } => {
            verdicts.push(downloaded(object));
            verdicts.extend(of_started(*is_ready, observed.info.as_ref()));
        }
        Situation::Crashed { message, restarts } => {
            let message = format!("the runtime ended {}: {message}", times(*restarts));
            verdicts.push(downloaded(object));
            verdicts.extend(fails(ConditionType::Loaded, Reason::CrashLoop, &message));
        }
        Situation::Fetching { last_failure } => {
            let message = match last_failure {
                Some(words) => format!("the fetch container tries again; the last try ended: {words}"),
                None => "the fetch container brings the weights into the node's cache".to_owned(),
            };
            verdicts.push(not_loaded_yet());
            verdicts.extend(fails(ConditionType::Downloaded, Reason::Downloading, &message));
        }
        Situation::FetchFailed { message } => {
            let message = format!("{message}{}", cache_hint(message));
            verdicts.push(not_loaded_yet());
            verdicts.extend(fails(ConditionType::Downloaded, Reason::DownloadFailed, &message));
        }
        before_start => {
            let (reason, message) = of_waiting_pod(before_start);
            verdicts.push(Verdict::fails(ConditionType::Loaded, reason, &message));
            verdicts.push(Verdict::fails(ConditionType::Ready, reason, &message));
        }
    }
    verdicts
}

/// Of a model whose spec is refused. Nothing that runs is touched: a pod of an earlier spec that serves goes on
/// serving, and the model stays ready for as long as it does. Without such a pod the model is not ready.
pub fn of_refusal(refusal: &ValidateError, is_serving: bool) -> Vec<Verdict> {
    let [refused, not_ready] = fails(ConditionType::Resolved, refusal.reason(), &refusal.to_string());
    vec![refused, if is_serving { serving() } else { not_ready }]
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
        _ if is_ready => [loaded(), serving()],
        Some(State::Ready) => [
            loaded(),
            not_ready(Reason::AwaitingReadiness, "the model is loaded; waiting for the pod's readiness probe"),
        ],
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
        Situation::BackingOff { message, until } => {
            (Reason::RestartBackoff, format!("the pod ended ({message}) and is replaced at {until:.0}"))
        }
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
        _ => (Reason::ReplacingPod, "the previous pod must be gone before the next one starts".to_owned()),
    }
}

fn downloaded(object: &LocalModel) -> Verdict {
    if object.spec.source.host_path.is_some() {
        Verdict::holds(ConditionType::Downloaded, Reason::OnNode, "the weights are read from the node")
    } else {
        Verdict::holds(ConditionType::Downloaded, Reason::Downloaded, "the weights are in the node's cache")
    }
}

fn serving() -> Verdict {
    Verdict::holds(ConditionType::Ready, Reason::Serving, "requests are answered")
}

fn not_loaded_yet() -> Verdict {
    Verdict::fails(ConditionType::Loaded, Reason::Waiting, "the weights come first")
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

/// The folder that the kubelet makes belongs to root; the fetch container does not run as root.
fn cache_hint(message: &str) -> &'static str {
    if message.to_ascii_lowercase().contains("permission denied") {
        "; give the cache folder on the node to user 65532: install -d -o 65532 -g 65532 FOLDER"
    } else {
        ""
    }
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
