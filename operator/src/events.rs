//! Events on a LocalModel, for `kubectl describe`: one for each transition, none for a change of words.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kindling_api::{ConditionType, LocalModel, LocalModelStatus};
use kube::Resource;
use kube::runtime::events::{Event, EventType, Recorder};

use crate::reason::Reason;

/// The API server's limit for an event's note.
const MAX_NOTE_LENGTH: usize = 1000;

/// Tells what changed between two statuses. Failing to tell is logged and nothing more.
pub async fn publish(recorder: &Recorder, object: &LocalModel, new: &LocalModelStatus) {
    let old = object.status.clone().unwrap_or_default();
    for event in transitions(&old, new) {
        if let Err(error) = recorder.publish(&event, &object.object_ref(&())).await {
            tracing::warn!(%error, reason = event.reason, "event was not published");
        }
    }
}

/// The events between two statuses: each new reason of `Ready`, each other condition that came to hold, and a refused
/// spec of a model that stays ready.
pub fn transitions(old: &LocalModelStatus, new: &LocalModelStatus) -> Vec<Event> {
    let is_ready = new.condition(ConditionType::Ready).is_some_and(|ready| ready.status == "True");
    let changed = ConditionType::ALL.into_iter().filter_map(|condition| {
        let after = new.condition(condition)?;
        let before = old.condition(condition);
        let is_new = before.is_none_or(|before| (&before.status, &before.reason) != (&after.status, &after.reason));
        let is_told = match condition {
            ConditionType::Ready => true,
            ConditionType::Resolved if after.status == "False" => is_ready,
            _ => after.status == "True",
        };
        (is_new && is_told).then(|| event(after))
    });
    changed.collect()
}

fn event(condition: &Condition) -> Event {
    let is_failure = condition.status != "True" && Reason::is_failure(&condition.reason);
    Event {
        type_: if is_failure { EventType::Warning } else { EventType::Normal },
        reason: condition.reason.clone(),
        note: Some(condition.message.chars().take(MAX_NOTE_LENGTH).collect()),
        action: condition.type_.clone(),
        secondary: None,
    }
}

#[cfg(test)]
mod tests;
