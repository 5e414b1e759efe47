//! When memory is back.

use crate::Bytes;

use super::draft::Draft;
use super::room::node_with;
use super::{Leaving, Measured, NodeFacts, RELEASE_LIMIT, RELEASED_PERCENT, Reservation, State, Terms};

/// Why a reservation ended. All but the first ask for a measurement that is younger than the end of the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Release {
    /// It never had a pod.
    NeverStarted(Leaving),
    /// Of all that leaves the node so much is back: [`RELEASED_PERCENT`] of what it held.
    Returned,
    /// As much is available as the ledger promises without it.
    NothingMissing,
    /// What comes next has its room, whatever else is not back.
    NextFits,
    /// It was not measured to be back within [`RELEASE_LIMIT`]: a warning.
    TimedOut,
}

/// Ends the releases whose memory is back. One that only [`Release::NextFits`] ends, ends when that is admitted.
pub(super) fn finish(draft: &mut Draft<'_>) {
    let nodes: Vec<&str> = draft.ledgers.keys().copied().collect();
    for node in nodes {
        let gone: Vec<Reservation> =
            draft.ledgers[node].iter().filter(|held| held.gone_at.is_some()).cloned().collect();
        for held in &gone {
            let Some(gone_at) = held.gone_at else { continue };
            let limit = gone_at.after(RELEASE_LIMIT);
            draft.look_again_at(limit);
            let how = if draft.now >= limit { Some(Release::TimedOut) } else { None };
            if let Some(how) = is_back(draft, node, &gone).or(how) {
                draft.drop(node, &held.key, how);
            }
        }
    }
}

/// What of a node's ledger is promised and not allocated.
pub(super) fn unallocated(ledger: &[Reservation]) -> Bytes {
    let coming = ledger.iter().filter(|held| matches!(held.state, State::Pending | State::Loading));
    coming.map(|held| held.terms.bytes + held.terms.load_transient).sum()
}

/// Whether the memory of those that are gone is back, by a measurement that is younger than all of their ends.
fn is_back(draft: &Draft<'_>, node: &str, gone: &[Reservation]) -> Option<Release> {
    let facts = draft.nodes.get(node)?;
    let measured = after_all(facts, gone)?;
    let ledger = &draft.ledgers[node];
    if has_returned(ledger, gone, measured) {
        return Some(Release::Returned);
    }
    let rest = node_with(facts, ledger.iter().filter(|held| held.gone_at.is_none()), |_| false);
    let promised = rest.total.saturating_sub(rest.system() + rest.held());
    let needed = promised + rest.floor() + unallocated(ledger);
    (measured.available >= needed).then_some(Release::NothingMissing)
}

/// The measurement, if it was made after all of them were gone.
fn after_all(facts: &NodeFacts, gone: &[Reservation]) -> Option<Measured> {
    let is_after = |measured: &Measured| gone.iter().all(|held| held.gone_at.is_some_and(|at| measured.at > at));
    facts.measured.filter(is_after)
}

/// Whatever leaves a node at the same time is judged together: what one of them gives back is not another's. While some
/// pod of them is still there, or something loads, what rises and falls belongs to nobody in particular.
fn has_returned(ledger: &[Reservation], gone: &[Reservation], measured: Measured) -> bool {
    let is_quiet = ledger.iter().all(|held| match held.state {
        State::Releasing => held.gone_at.is_some(),
        State::Loading => false,
        State::Pending | State::Resident => true,
    });
    let before = gone.iter().map(|held| held.available_before).min().flatten();
    let held: Bytes = gone.iter().map(|held| held.measured.unwrap_or(held.terms.bytes)).sum();
    is_quiet && before.is_some_and(|before| measured.available >= before + held.percent(RELEASED_PERCENT))
}

/// Ends the releases of a node if what comes next has its room anyway, beside all that is promised.
pub(super) fn finish_for(draft: &mut Draft<'_>, node: &str, next: &Terms) -> bool {
    let leaving: Vec<Reservation> =
        draft.ledgers[node].iter().filter(|held| held.state == State::Releasing).cloned().collect();
    let last = leaving.iter().map(|held| held.gone_at).max().flatten();
    let all_gone = leaving.iter().all(|held| held.gone_at.is_some());
    let promised = unallocated(&draft.ledgers[node]);
    if !all_gone || last.is_none() || !draft.is_really_there(node, next, promised, last) {
        return false;
    }
    for held in &leaving {
        draft.drop(node, &held.key, Release::NextFits);
    }
    true
}
