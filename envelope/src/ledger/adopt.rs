//! What exists holds memory: the ledger follows the pods before anything is decided.

use super::draft::Draft;
use super::{Leaving, Pod, PodPhase, Reservation, State, Step};

/// Gives every pod its reservation, and every reservation the state that its pod has reached.
pub(super) fn adopt(draft: &mut Draft<'_>) {
    let pods: Vec<(&str, &Pod)> = draft.pods.iter().map(|((node, _), pod)| (*node, *pod)).collect();
    for (node, pod) in pods {
        // A node that is no object any more has no ledger.
        let Some((node, _)) = draft.nodes.get_key_value(node) else { continue };
        let node = *node;
        match draft.find(node, &pod.key) {
            None => {
                let reservation = found(draft, pod);
                draft.add(node, reservation, Step::Adopt);
            }
            Some(held) if held.terms != pod.terms => {
                // It holds what it was made with, whatever was promised since.
                held.terms = pod.terms.clone();
                let noted = held.clone();
                draft.note(node, &noted, Step::Adopt);
            }
            Some(_) => {}
        }
    }
    let all: Vec<(&str, Reservation)> =
        draft.ledgers.iter().flat_map(|(node, list)| list.iter().map(|held| (*node, held.clone()))).collect();
    for (node, held) in &all {
        follow(draft, node, held);
    }
    release_doubles(draft);
}

fn found(draft: &Draft<'_>, pod: &Pod) -> Reservation {
    let state = match pod.phase {
        PodPhase::Starting => State::Loading,
        PodPhase::Ready => State::Resident,
        PodPhase::Terminating | PodPhase::Ended => State::Releasing,
    };
    Reservation {
        key: pod.key.clone(),
        name: pod.name.clone(),
        model: pod.model.clone(),
        priority: draft.wishes.get(pod.key.as_str()).map_or(0, |wish| wish.priority),
        terms: pod.terms.clone(),
        state,
        since: draft.now,
        made_at: draft.now,
        measured: None,
        available_before: None,
        gone_at: None,
    }
}

fn follow(draft: &mut Draft<'_>, node: &str, held: &Reservation) {
    use PodPhase::{Ended, Ready, Starting, Terminating};
    use State::{Loading, Pending, Releasing, Resident};
    let key = held.key.as_str();
    match (held.state, draft.pod(node, key).map(|pod| pod.phase)) {
        (Pending, Some(Starting)) => draft.move_to(node, key, Loading, Step::Load),
        (Pending | Loading, Some(Ready)) => draft.move_to(node, key, Resident, Step::Serve),
        (Pending | Loading | Resident, Some(Terminating | Ended)) => draft.release(node, key, Leaving::PodGone),
        (Loading | Resident, None) => {
            draft.release(node, key, Leaving::PodGone);
            await_memory(draft, node, key);
        }
        (Releasing, None) if held.gone_at.is_none() => {
            await_memory(draft, node, key);
            draft.note(node, held, Step::AwaitMemory);
        }
        (Releasing, Some(_)) if held.gone_at.is_some() => {
            // It was not gone: whoever made it wrote late.
            if let Some(held) = draft.find(node, key) {
                held.gone_at = None;
            }
        }
        _ => {}
    }
}

fn await_memory(draft: &mut Draft<'_>, node: &str, key: &str) {
    let now = draft.now;
    if let Some(held) = draft.find(node, key) {
        held.gone_at = Some(now);
    }
}

/// A copy has one place: of several the one that is furthest goes on.
fn release_doubles(draft: &mut Draft<'_>) {
    let mut places: Vec<(String, std::cmp::Reverse<State>, &str)> = Vec::new();
    for (node, list) in &draft.ledgers {
        let going_on = list.iter().filter(|held| held.state != State::Releasing);
        places.extend(going_on.map(|held| (held.key.clone(), std::cmp::Reverse(held.state), *node)));
    }
    places.sort();
    for index in 1..places.len() {
        if places[index].0 == places[index - 1].0 {
            let (key, _, node) = places[index].clone();
            draft.release(node, &key, Leaving::Twice);
        }
    }
}
