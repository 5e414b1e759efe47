//! When memory is back.

use crate::Bytes;

use super::draft::Draft;
use super::room::node_with;
use super::{Leaving, Measured, NodeFacts, Pod, PodPhase, RELEASE_LIMIT, RELEASED_PERCENT, Reservation, State, Terms};

/// Why a reservation ended. `Returned` and `NothingMissing` ask for a measurement that is younger than the end of the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Release {
    /// It never had a pod.
    NeverStarted(Leaving),
    /// Of all that leaves the node so much is back: [`RELEASED_PERCENT`] of what it held.
    Returned,
    /// As much is available as the ledger promises without it, also when all others have left.
    NothingMissing,
    /// It was not measured to be back within [`RELEASE_LIMIT`]: a warning.
    TimedOut,
}

/// Ends the releases whose memory is back.
pub(super) fn finish(draft: &mut Draft<'_>) {
    let nodes: Vec<&str> = draft.ledgers.keys().copied().collect();
    for node in nodes {
        let gone: Vec<Reservation> =
            draft.ledgers[node].iter().filter(|held| held.gone_at.is_some()).cloned().collect();
        for held in &gone {
            let Some(gone_at) = held.gone_at else { continue };
            let limit = gone_at.after(RELEASE_LIMIT);
            draft.look_again_at(limit);
            let how = (draft.now >= limit).then_some(Release::TimedOut);
            let Some(how) = is_back(draft, node, &gone).or(how) else { continue };
            if how != Release::Returned {
                forget_rise(draft, node);
            }
            draft.drop(node, &held.key, how);
        }
    }
}

/// What is not back of one that ended would be taken for another's: those that are left are judged by what is there alone.
fn forget_rise(draft: &mut Draft<'_>, node: &str) {
    let ledger = draft.ledgers.get_mut(node).map(Vec::as_mut_slice).unwrap_or_default();
    for held in ledger.iter_mut().filter(|held| held.state == State::Releasing) {
        held.available_before = None;
    }
}

/// What of a node's ledger the measurement does not show: what is promised, what loads, and what became ready since, be it
/// again.
pub(super) fn unseen(draft: &Draft<'_>, node: &str, measured: Measured, except: Option<State>) -> Bytes {
    let coming =
        draft.ledgers[node].iter().filter(|held| Some(held.state) != except && is_coming(draft, node, held, measured));
    coming.map(|held| held.terms.bytes + held.terms.load_transient).sum()
}

fn is_coming(draft: &Draft<'_>, node: &str, held: &Reservation, measured: Measured) -> bool {
    let is_seen = |pod: &Pod| match pod.phase {
        PodPhase::Ready => pod.since < measured.at,
        // Somebody told it to go; what it holds, it took before.
        PodPhase::Terminating => held.since < measured.at,
        PodPhase::Starting | PodPhase::Ended => false,
    };
    match held.state {
        State::Pending | State::Loading => true,
        State::Resident => !draft.pod(node, &held.key).is_some_and(is_seen),
        // What it held when it was told to go, had perhaps just been allocated.
        State::Releasing => held.since >= measured.at,
    }
}

/// Whether the memory of those that are gone is back, by a measurement that is younger than all of their ends.
fn is_back(draft: &Draft<'_>, node: &str, gone: &[Reservation]) -> Option<Release> {
    let facts = draft.nodes.get(node)?;
    let measured = after_all(facts, gone)?;
    let ledger = &draft.ledgers[node];
    if has_returned(draft, node, gone, measured) {
        return Some(Release::Returned);
    }
    let rest = node_with(facts, ledger.iter().filter(|held| held.gone_at.is_none()), |_| false);
    let promised = rest.total.saturating_sub(rest.system() + rest.held());
    let needed = promised + rest.floor() + unseen(draft, node, measured, None) + unused(draft, node, measured);
    (measured.available >= needed).then_some(Release::NothingMissing)
}

/// What those that stay have reserved and do not use. Memory that is not back could be missing there: it would show only
/// when they have left, and their room is promised whole. One that was not measured is not known to use anything.
fn unused(draft: &Draft<'_>, node: &str, measured: Measured) -> Bytes {
    let ledger = draft.ledgers[node].iter();
    let staying = ledger.filter(|held| held.gone_at.is_none() && !is_coming(draft, node, held, measured));
    staying.map(|held| held.terms.bytes.saturating_sub(held.measured.unwrap_or_default())).sum()
}

/// The measurement, if it was made after all of them were gone.
fn after_all(facts: &NodeFacts, gone: &[Reservation]) -> Option<Measured> {
    let is_after = |measured: &Measured| gone.iter().all(|held| held.gone_at.is_some_and(|at| measured.at > at));
    facts.measured.filter(is_after)
}

/// Whatever leaves a node at the same time is judged together: what one of them gives back is not another's. While some
/// pod of them is still there, or something loads, what rises and falls belongs to nobody in particular.
fn has_returned(draft: &Draft<'_>, node: &str, gone: &[Reservation], measured: Measured) -> bool {
    let is_quiet = draft.ledgers[node].iter().all(|held| match held.state {
        State::Releasing => held.gone_at.is_some(),
        State::Loading | State::Resident => !is_coming(draft, node, held, measured),
        State::Pending => true,
    });
    let before = gone.iter().map(|held| held.available_before).min().flatten();
    let held: Bytes = gone.iter().map(|held| held.measured.unwrap_or(held.terms.bytes)).sum();
    is_quiet && before.is_some_and(|before| measured.available >= before + held.percent(RELEASED_PERCENT))
}

/// Whether what leaves has given its room away before its memory was back.
pub(super) fn has_yielded(held: &Reservation) -> bool {
    held.state == State::Releasing && held.gone_at.is_some() && held.terms.bytes == Bytes(0)
}

/// Whether `next` was measured to have its room beside all that is promised, after everything that leaves was gone.
pub(super) fn is_really_there(draft: &Draft<'_>, node: &str, next: &Terms) -> bool {
    let Some(measured) = draft.nodes.get(node).and_then(|facts| facts.measured) else { return false };
    let mut leaving = draft.ledgers[node].iter().filter(|held| held.state == State::Releasing);
    let unseen = unseen(draft, node, measured, None);
    leaving.all(|held| held.gone_at.is_some_and(|at| measured.at > at))
        && draft.missing(node, next, unseen) == Some(Bytes(0))
}

/// What leaves a node gives its room to what comes next: it counts no more, but until it was measured to be back, nobody
/// comes to that node whose room was not measured to be there.
pub(super) fn yield_room(draft: &mut Draft<'_>, node: &str) {
    let leaving = draft.ledgers[node].iter().filter(|held| held.state == State::Releasing && !has_yielded(held));
    let keys: Vec<String> = leaving.map(|held| held.key.clone()).collect();
    for key in keys {
        draft.yield_room(node, &key);
    }
}
