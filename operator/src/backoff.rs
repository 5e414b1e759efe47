//! How long a pod that failed keeps its model from being tried again. Pure.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// The shortest and longest wait.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));

/// Whether the pod ended for good, for example because it was evicted. Containers that end are restarted by the
/// kubelet and are no reason to replace the pod.
pub fn has_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Failed" | "Succeeded"))
}

/// When a model whose pod ended for good is tried again: the longer it has been failing, the later.
pub fn backoff_until(pod: &Pod, not_ready_since: Option<Timestamp>, now: Timestamp) -> Timestamp {
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
    let ends =
        containers.iter().filter_map(|container| container.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref());
    let last = transitions.chain(ends).map(|time| time.0).max();
    last.or_else(|| pod.metadata.creation_timestamp.as_ref().map(|time| time.0))
}

#[cfg(test)]
mod tests;
