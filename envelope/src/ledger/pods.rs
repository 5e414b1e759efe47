//! Which pods are made and deleted: they follow from what was read, never from what is about to be written.

use std::cmp::Reverse;

use crate::Bytes;

use super::draft::Draft;
use super::queue::unusable;
use super::{NodeFacts, PodPhase, PodStep, Reservation, State};

/// The steps of all nodes: first what goes, then what comes.
pub(super) fn steps(draft: &mut Draft<'_>) -> Vec<PodStep> {
    let mut steps = Vec::new();
    for (node, facts) in &draft.nodes {
        for read in facts.reservations.iter().filter(|read| read.state == State::Releasing) {
            let is_there = draft.pod(node, &read.key).is_some_and(|pod| pod.phase != PodPhase::Terminating);
            if is_there && stands(draft, node, read) {
                steps.push(PodStep::Delete { node: (*node).to_owned(), key: read.key.clone() });
            }
        }
        let next = next_to_load(draft, node, facts);
        steps.extend(next.map(|key| PodStep::Make { node: (*node).to_owned(), key }));
    }
    steps.sort();
    steps
}

/// Whether it stays in the state in which it was read.
fn stands(draft: &Draft<'_>, node: &str, read: &Reservation) -> bool {
    draft.ledgers[node].iter().any(|held| held.key == read.key && held.state == read.state && held.terms == read.terms)
}

/// Nothing else loads, and by the last measurement it has its room. Of several the first in the queue that has.
fn next_to_load(draft: &Draft<'_>, node: &str, facts: &NodeFacts) -> Option<String> {
    let loads = |held: &Reservation| {
        let is_starting = draft.pod(node, &held.key).is_some_and(|pod| pod.phase == PodPhase::Starting);
        held.state == State::Loading || is_starting
    };
    if unusable(facts).is_some() || draft.ledgers[node].iter().any(loads) {
        return None;
    }
    let mut next: Vec<&Reservation> = facts
        .reservations
        .iter()
        .filter(|read| {
            read.state == State::Pending && draft.pod(node, &read.key).is_none() && stands(draft, node, read)
        })
        .collect();
    next.sort_by_key(|read| (Reverse(read.priority), read.made_at, read.key.as_str()));
    let may_start = |read: &&&Reservation| {
        // What was let in although it does not fit is the agent's to judge alone.
        let is_overridden = read.terms.overridden && facts.measured.is_some();
        is_overridden || draft.is_really_there(node, &read.terms, Bytes(0), None)
    };
    next.iter().find(may_start).map(|read| read.key.clone())
}
