//! What to do with a model's one pod, as a pure decision. A pod is never changed in place: it is deleted, awaited,
//! and made anew, so that two never hold the model's memory at once.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kindling_api::DIGEST_ANNOTATION;
use kube::ResourceExt;

use crate::dereference::Existing;

/// The shortest and longest time that a failed pod stays before it is replaced.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));

/// The next step with a model's pod.
#[derive(Clone, Debug, PartialEq)]
pub enum PodStep {
    /// There is none and none is wanted.
    Nothing,
    /// Make it.
    Create,
    /// It is as it should be.
    Keep,
    /// Delete it; what is wanted instead follows when it is gone.
    Delete,
    /// It is being deleted.
    AwaitGone,
    /// It failed; wait until then before deleting it.
    BackOff {
        /// When to delete it.
        until: Timestamp,
    },
}

/// Decides the next step. `not_ready_since` is when the model was last seen to stop being ready: the longer it has
/// been failing, the longer a failed pod is left, so the waits double without anything being counted.
pub fn decide(
    existing: &Existing<Pod>,
    desired: Option<&Pod>,
    not_ready_since: Option<Timestamp>,
    now: Timestamp,
) -> PodStep {
    let pod = match existing {
        Existing::None if desired.is_some() => return PodStep::Create,
        Existing::None => return PodStep::Nothing,
        // validate refuses foreign objects before this is asked
        Existing::Leftover | Existing::Foreign => return PodStep::AwaitGone,
        Existing::Ours(pod) => pod,
    };
    if pod.metadata.deletion_timestamp.is_some() {
        return PodStep::AwaitGone;
    }
    let Some(desired) = desired else { return PodStep::Delete };
    if pod.annotations().get(DIGEST_ANNOTATION) != desired.annotations().get(DIGEST_ANNOTATION) {
        return PodStep::Delete;
    }
    if !has_finished(pod) {
        return PodStep::Keep;
    }
    let until = backoff_until(pod, not_ready_since, now);
    if now < until { PodStep::BackOff { until } } else { PodStep::Delete }
}

/// Whether the pod ended for good, for example because it was evicted. Containers that end are restarted by the
/// kubelet and are no reason to replace the pod.
pub fn has_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Failed" | "Succeeded"))
}

fn backoff_until(pod: &Pod, not_ready_since: Option<Timestamp>, now: Timestamp) -> Timestamp {
    let failed_at = finished_at(pod).unwrap_or(now);
    let failing_for = not_ready_since.map_or(SignedDuration::ZERO, |since| failed_at.duration_since(since));
    let wait = Duration::try_from(failing_for).unwrap_or_default().clamp(BACKOFF.0, BACKOFF.1);
    failed_at.checked_add(wait).unwrap_or(now)
}

/// When the pod ended: the last change of its conditions or containers, else when it was made.
fn finished_at(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let containers = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    let transitions = conditions.iter().filter_map(|condition| condition.last_transition_time.as_ref());
    let ends = containers.iter().filter_map(|container| container.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref());
    let last = transitions.chain(ends).map(|time| time.0).max();
    last.or_else(|| pod.metadata.creation_timestamp.as_ref().map(|time| time.0))
}

#[cfg(test)]
mod tests;
