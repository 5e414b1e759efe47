//! Who leaves for reasons of their own: deleted, suspended, unused, changed, or on a node that is no use.

use super::draft::Draft;
use super::{Activation, Leaving, Reservation, State, Time, Wish};

/// Begins the release of everything that nobody wishes as it is.
pub(super) fn let_go(draft: &mut Draft<'_>) {
    let all: Vec<(&str, Reservation)> =
        draft.ledgers.iter().flat_map(|(node, list)| list.iter().map(|held| (*node, held.clone()))).collect();
    for (node, held) in all.iter().filter(|(_, held)| held.state != State::Releasing) {
        if let Some(why) = reason(draft, node, held) {
            draft.release(node, &held.key, why);
        }
    }
}

fn reason<'a>(draft: &mut Draft<'a>, node: &'a str, held: &Reservation) -> Option<Leaving> {
    let Some(wish) = draft.wishes.get(held.key.as_str()).copied() else { return Some(Leaving::Deleted) };
    // Another step may have released it since it was looked up.
    if draft.find(node, &held.key).is_none_or(|held| held.state == State::Releasing) {
        return None;
    }
    let has_pod = draft.pod(node, &held.key).is_some();
    match wish.activation {
        Activation::Suspended => return Some(Leaving::Suspended),
        Activation::OnDemand { keep_alive: Some(keep_alive), requested: false } => {
            let unused_since = wish.last_used.map_or(held.since, |used| used.max(held.since));
            let until = unused_since.after(keep_alive);
            // What loads was asked for; whether anybody still wants it shows when it serves.
            if held.state != State::Loading {
                draft.look_again_at(until);
                if draft.now >= until {
                    return Some(Leaving::Unused);
                }
            }
        }
        Activation::OnDemand { .. } | Activation::Always => {}
    }
    let is_no_use = draft.nodes.get(node).is_none_or(|facts| facts.lost || facts.cordoned || !facts.agent);
    if held.state == State::Pending && !has_pod && is_no_use {
        return Some(Leaving::NodeOfNoUse);
    }
    let is_changed = wish.need.as_ref().is_some_and(|need| need.fingerprint != held.terms.fingerprint);
    (is_changed && !has_pod && held.state == State::Pending).then_some(Leaving::Changed)
}

/// When an aged wish has waited long enough.
pub(super) fn aged_at(wish: &Wish) -> Time {
    wish.wanted_since.after(super::AGED_AFTER)
}
