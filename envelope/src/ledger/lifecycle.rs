//! Who leaves for reasons of their own: deleted, suspended, unused, changed, or on a node that is no use.

use super::draft::Draft;
use super::{Activation, Leaving, Need, Reservation, State, Time, Verdict, Wish, evict, queue};

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
    let need = wish.need.as_ref().filter(|need| need.fingerprint != held.terms.fingerprint)?;
    if !has_pod && held.state == State::Pending {
        return Some(Leaving::Changed);
    }
    changed(draft, node, wish, need)
}

/// A model that is to be served otherwise leaves only if it can come back: on its node with itself gone, or elsewhere.
fn changed<'a>(draft: &mut Draft<'a>, node: &'a str, wish: &Wish, need: &Need) -> Option<Leaving> {
    let terms = queue::terms(draft, wish, need);
    let now = draft.now;
    let stays = |draft: &Draft<'_>, other: &Reservation| {
        let leaves = evict::free_at(draft, other, wish).is_some_and(|at| at <= now);
        other.key != wish.key && other.state != State::Releasing && !leaves
    };
    let can_go_to = |other: &&'a str| {
        let is_usable = draft.nodes.get(*other).is_some_and(|facts| queue::unusable(facts).is_none());
        is_usable && wish.nodes.contains(*other) && wish.weights_on.contains(*other)
    };
    let others: Vec<&'a str> = draft.nodes.keys().copied().filter(|other| *other != node).filter(can_go_to).collect();
    let Err(shortfall) = draft.fits(node, &terms, &[], |other| stays(draft, other)) else {
        return Some(Leaving::Changed);
    };
    if others.iter().any(|other| draft.fits(other, &terms, &[], |_| true).is_ok()) {
        return Some(Leaving::Changed);
    }
    let misfit = evict::misfit(draft, node, (wish, need), shortfall, |other| stays(draft, other))?;
    draft.verdicts.insert(wish.key.clone(), Verdict::ChangeRefused { misfit: Box::new(misfit) });
    None
}

/// When an aged wish has waited long enough.
pub(super) fn aged_at(wish: &Wish) -> Time {
    wish.wanted_since.after(super::AGED_AFTER)
}
