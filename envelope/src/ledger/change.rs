//! Models that are to be served otherwise than they are: they are admitted anew before they restart.

use super::draft::Draft;
use super::room::Claim;
use super::{Leaving, Need, Reservation, State, Terms, Verdict, Wish, evict, queue};

/// Begins the release of a model that was changed, if it can come back: on its node with itself gone, or elsewhere. Nobody
/// behind it in the queue takes what it comes back to. If it cannot, it stays as it is.
pub(super) fn change<'a>(draft: &mut Draft<'a>, claims: &mut Vec<Claim<'a>>, wish: &'a Wish) {
    let Some((node, held)) = draft.place(&wish.key) else { return };
    let Some(need) = wish.need.as_ref().filter(|need| need.fingerprint != held.terms.fingerprint) else { return };
    let comes_back = |other: &Reservation| {
        let wanted = draft.wishes.get(other.key.as_str()).is_some_and(|wish| wish.is_wanted());
        other.state == State::Releasing && wanted
    };
    if draft.ledgers[node].iter().any(comes_back) {
        // One after the other: two that leave for a change may each fit, and not both.
        return;
    }
    if is_under_way(draft, wish, need) {
        return;
    }
    let terms = queue::terms(draft, wish, need);
    match returns_to(draft, claims, wish, &terms) {
        Some(place) => {
            draft.release(node, &wish.key, Leaving::Changed);
            let leaving = leaving_now(draft, place, wish);
            claims.push(Claim { node: place, wish, terms, leaving });
        }
        None => refuse(draft, (wish, need), node, &terms),
    }
}

/// Whether another copy is on its way to what is asked now: until it serves, this one goes on as it is.
fn is_under_way(draft: &Draft<'_>, wish: &Wish, need: &Need) -> bool {
    let others = draft.ledgers.values().flatten().filter(|held| held.model == wish.model && held.key != wish.key);
    let mut on_the_way = others.filter(|held| match held.state {
        State::Pending | State::Loading => held.terms.fingerprint == need.fingerprint,
        State::Releasing => draft.wishes.get(held.key.as_str()).is_some_and(|wish| wish.is_wanted()),
        State::Resident => false,
    });
    on_the_way.next().is_some() || draft.wishes.values().any(|other| is_about_to_come(draft, wish, other))
}

/// Whether another copy has no place for the moment only: it lost it in this plan, or has failed and is tried again.
fn is_about_to_come(draft: &Draft<'_>, wish: &Wish, other: &Wish) -> bool {
    let is_other = other.model == wish.model && other.key != wish.key;
    if !is_other || !other.is_wanted() || draft.place(&other.key).is_some() {
        return false;
    }
    let had_place = || draft.nodes.values().any(|facts| facts.reservations.iter().any(|held| held.key == other.key));
    other.not_before.is_some_and(|until| until > draft.now) || had_place()
}

/// Who may be unloaded for it now.
fn leaving_now(draft: &Draft<'_>, node: &str, wish: &Wish) -> Vec<String> {
    let leaves = |held: &&Reservation| evict::free_at(draft, held, wish).is_some_and(|at| at <= draft.now);
    draft.ledgers[node].iter().filter(leaves).map(|held| held.key.clone()).collect()
}

fn stays(draft: &Draft<'_>, other: &Reservation, wish: &Wish) -> bool {
    let leaves = evict::free_at(draft, other, wish).is_some_and(|at| at <= draft.now);
    other.key != wish.key && other.state != State::Releasing && !leaves
}

fn returns_to<'a>(draft: &Draft<'a>, claims: &[Claim<'a>], wish: &Wish, terms: &Terms) -> Option<&'a str> {
    let (node, _) = draft.place(&wish.key)?;
    // A node that takes nothing does not take it back either.
    let is_usable = |node: &str| draft.nodes.get(node).is_some_and(|facts| queue::unusable(facts).is_none());
    if is_usable(node) && draft.fits(node, terms, claims, |other| stays(draft, other, wish)).is_ok() {
        return Some(node);
    }
    let can_go_to = |other: &&'a str| {
        let is_open = is_usable(other) && !queue::has_other_copy(draft, claims, other, wish);
        is_open && wish.nodes.contains(*other) && wish.weights_on.contains(*other)
    };
    let others = draft.nodes.keys().copied().filter(|other| *other != node);
    others.filter(can_go_to).find(|other| draft.fits(other, terms, claims, |_| true).is_ok())
}

fn refuse<'a>(draft: &mut Draft<'a>, asked: (&Wish, &Need), node: &'a str, terms: &Terms) {
    let (wish, _) = asked;
    let Err(shortfall) = draft.fits(node, terms, &[], |other| stays(draft, other, wish)) else { return };
    let misfit = evict::misfit(draft, node, asked, shortfall, |other| stays(draft, other, wish));
    if let Some(misfit) = misfit {
        draft.verdicts.insert(wish.key.clone(), Verdict::ChangeRefused { misfit: Box::new(misfit) });
    }
}
