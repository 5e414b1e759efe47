//! Who is unloaded for whom, and when.

use std::cmp::Reverse;

use crate::{Bytes, Shortfall, alternatives};

use super::draft::Draft;
use super::lifecycle::aged_at;
use super::room::{Claim, node_with};
use super::{Misfit, Need, Reservation, State, Terms, Time, Wish};

/// Of so many residents every set is tried; a node holds a handful.
const TRY_ALL: usize = 10;

/// Models that leave together, ordered by what that costs: the least first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Set {
    in_use: usize,
    number: usize,
    bytes: Bytes,
    idle_millis: Reverse<u64>,
    /// Who they are; they decide between sets that cost the same.
    pub keys: Vec<String>,
}

/// When a reservation may be unloaded for that wish; nothing, if never. What does not serve yet stays at least for as
/// long as it would from now on.
pub(super) fn free_at(draft: &Draft<'_>, held: &Reservation, waiting: &Wish) -> Option<Time> {
    if held.state == State::Releasing || !draft.leaves_for(held, waiting) {
        return None;
    }
    let wish = draft.wishes.get(held.key.as_str())?;
    if held.state != State::Resident {
        return Some(Time(draft.now.after(wish.stays()).0.max(draft.now.0 + 1)));
    }
    let stayed = held.since.after(wish.stays());
    Some(if wish.is_in_use(draft.now) { stayed.max(aged_at(waiting)) } else { stayed })
}

/// Which models leave a node now, so that what waits fits when they and those that leave already are gone.
pub(super) fn cheapest<'a>(
    draft: &Draft<'a>,
    node: &'a str,
    waiting: &Wish,
    terms: &Terms,
    claims: &[Claim<'a>],
) -> Option<Set> {
    let free = |held: &&Reservation| free_at(draft, held, waiting).is_some_and(|at| at <= draft.now);
    let mut candidates: Vec<&Reservation> = draft.ledgers.get(node)?.iter().filter(free).collect();
    candidates.sort_by(|a, b| b.terms.bytes.cmp(&a.terms.bytes).then_with(|| a.key.cmp(&b.key)));
    let is_enough = |set: &[&Reservation]| {
        let leaves = |held: &Reservation| set.iter().any(|leaving| leaving.key == held.key);
        // What leaves is no ground to claim: whoever has a claim gets its room beside this.
        draft.fits(node, terms, claims, |held| held.state != State::Releasing && !leaves(held)).is_ok()
    };
    if candidates.is_empty() || !is_enough(&candidates) {
        return None;
    }
    let chosen = if candidates.len() <= TRY_ALL {
        let sets = (1..1_usize << candidates.len()).map(|set| {
            let chosen = candidates.iter().enumerate().filter(move |(index, _)| set & (1 << index) != 0);
            chosen.map(|(_, held)| *held).collect::<Vec<_>>()
        });
        let enough = sets.filter(|set| is_enough(set));
        enough.min_by_key(|set| cost(draft, set))?
    } else {
        // Too many to try all sets: whoever need not leave stays, those in use and the largest first.
        let mut set = candidates.clone();
        candidates.sort_by_key(|held| !is_in_use(draft, held));
        for held in candidates {
            let without: Vec<&Reservation> = set.iter().copied().filter(|other| other.key != held.key).collect();
            if is_enough(&without) {
                set = without;
            }
        }
        set
    };
    (!chosen.is_empty()).then(|| cost(draft, &chosen))
}

fn is_in_use(draft: &Draft<'_>, held: &Reservation) -> bool {
    draft.wishes.get(held.key.as_str()).is_some_and(|wish| wish.is_in_use(draft.now))
}

fn cost(draft: &Draft<'_>, set: &[&Reservation]) -> Set {
    let idle = |held: &&Reservation| {
        let used = draft.wishes.get(held.key.as_str()).and_then(|wish| wish.last_used).unwrap_or(held.since);
        draft.now.0.saturating_sub(used.0)
    };
    let in_use = set.iter().filter(|held| is_in_use(draft, held)).count();
    let bytes = set.iter().map(|held| held.terms.bytes).sum();
    let mut keys: Vec<String> = set.iter().map(|held| held.key.clone()).collect();
    keys.sort();
    let idle_millis = Reverse(set.iter().map(idle).fold(0, u64::saturating_add));
    Set { in_use, number: set.len(), bytes, idle_millis, keys }
}

/// When enough of those that may leave for it may do so, and who they are; nothing, if all of them are not enough.
pub(super) fn enough_at<'a>(
    draft: &Draft<'a>,
    node: &'a str,
    waiting: &Wish,
    terms: &Terms,
    claims: &[Claim<'a>],
) -> Option<(Time, Vec<Reservation>)> {
    let ledger = draft.ledgers.get(node)?;
    let mut leaving: Vec<(Time, &Reservation)> =
        ledger.iter().filter_map(|held| Some((free_at(draft, held, waiting)?, held))).collect();
    leaving.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.key.cmp(&b.1.key)));
    (0..=leaving.len()).find_map(|number| {
        let gone = &leaving[..number];
        let leaves = |held: &Reservation| gone.iter().any(|(_, leaving)| leaving.key == held.key);
        let fits = draft.fits(node, terms, claims, |held| held.state != State::Releasing && !leaves(held));
        let at = gone.last().map_or(draft.now, |(at, _)| *at);
        fits.is_ok().then(|| (at, gone.iter().map(|(_, held)| (*held).clone()).collect()))
    })
}

/// What would fit on a node instead, beside those that stay.
pub(super) fn misfit(
    draft: &Draft<'_>,
    node: &str,
    (waiting, need): (&Wish, &Need),
    shortfall: Shortfall,
    stays: impl Fn(&Reservation) -> bool,
) -> Option<Misfit> {
    let facts = draft.nodes.get(node)?;
    let staying = draft.ledgers.get(node)?.iter().filter(|held| stays(held));
    let with = node_with(facts, staying, |held| draft.leaves_for(held, waiting));
    let alternatives = alternatives(&need.model, &need.serving, &with, waiting.priority);
    Some(Misfit { node: node.to_owned(), shortfall, alternatives })
}
