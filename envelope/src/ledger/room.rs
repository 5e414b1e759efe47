//! Whether something fits on a node: the promise, and what was measured.

use crate::{Bytes, Footprint, Node, Resident, Shortfall};

use super::draft::Draft;
use super::{Activation, NodeFacts, Reservation, State, Terms, Time, Wish};

/// The agent publishes a change of so much: a last measurement may be off by it, and the agent itself decides.
const UNPUBLISHED: Bytes = Bytes::mib(256);

/// A node with what its ledger holds. `may_leave` says who may be unloaded for another. Every reservation keeps its load
/// transient, since a container that restarts loads again.
pub fn node_with<'r>(
    facts: &NodeFacts,
    reservations: impl IntoIterator<Item = &'r Reservation>,
    may_leave: impl Fn(&Reservation) -> bool,
) -> Node {
    let resident = |reservation: &Reservation| Resident {
        name: reservation.name.clone(),
        bytes: reservation.terms.bytes,
        load_transient: reservation.terms.load_transient,
        priority: reservation.priority,
        may_leave: may_leave(reservation),
    };
    let residents = reservations.into_iter().map(resident).collect();
    Node { total: facts.total, baseline: facts.baseline, others: facts.others, residents }
}

/// Room that is kept for somebody who waits.
#[derive(Clone)]
pub(super) struct Claim<'a> {
    pub node: &'a str,
    pub wish: &'a Wish,
    pub terms: Terms,
}

/// What was frozen, in the form that the check takes.
fn footprint(terms: &Terms) -> Footprint {
    let nothing = Bytes(0);
    let Terms { bytes, load_transient, .. } = *terms;
    Footprint { weights: bytes, kv_cache: nothing, activations: nothing, runtime: nothing, load_transient }
}

/// The static check. What was let in although it fits nowhere has a node for itself.
fn check(facts: &NodeFacts, others: &[&Terms], new: &Terms) -> Result<Bytes, Shortfall> {
    let mut node = node_with(facts, [], |_| false);
    node.residents.extend(others.iter().map(|terms| Resident {
        name: String::new(),
        bytes: terms.bytes,
        load_transient: terms.load_transient,
        priority: 0,
        may_leave: false,
    }));
    let checked = node.check(&footprint(new));
    if new.overridden && others.is_empty() { Ok(Bytes(0)) } else { checked }
}

/// Whether it may be on the node when nothing else is there.
pub(super) fn check_empty(facts: &NodeFacts, new: &Terms) -> Result<Bytes, Shortfall> {
    check(facts, &[], new)
}

/// Whether it fits on the node when nothing else is there, overridden or not.
pub(super) fn check_alone(facts: &NodeFacts, new: &Terms) -> Result<Bytes, Shortfall> {
    node_with(facts, [], |_| false).check(&footprint(new))
}

impl<'a> Draft<'a> {
    /// Whether `new` fits beside all that stays, and leaves everybody who has a claim what is theirs. The answer is
    /// what stays free.
    pub fn fits(
        &self,
        node: &'a str,
        new: &Terms,
        claims: &[Claim<'a>],
        stays: impl Fn(&Reservation) -> bool,
    ) -> Result<Bytes, Shortfall> {
        let (Some(facts), Some(ledger)) = (self.nodes.get(node), self.ledgers.get(node)) else {
            return Err(Shortfall {
                needed: new.bytes,
                total: Bytes(0),
                system: Bytes(0),
                held: Bytes(0),
                free: Bytes(0),
            });
        };
        let staying: Vec<&Terms> = ledger.iter().filter(|held| stays(held)).map(|held| &held.terms).collect();
        let free = check(facts, &staying, new)?;
        let here: Vec<&Claim<'a>> = claims.iter().filter(|claim| claim.node == node).collect();
        for claim in &here {
            let fixed = ledger.iter().filter(|held| stays(held) && !self.leaves_for(held, claim.wish));
            let beside: Vec<&Terms> =
                fixed.map(|held| &held.terms).chain(here.iter().map(|claim| &claim.terms)).collect();
            check(facts, &beside, new)?;
        }
        Ok(free)
    }

    /// Whether a reservation will be gone in bounded time when that wish has aged.
    pub fn leaves_for(&self, held: &Reservation, waiting: &Wish) -> bool {
        if held.state == State::Releasing {
            return true;
        }
        let may =
            |wish: &&Wish| matches!(wish.activation, Activation::OnDemand { .. }) && wish.priority <= waiting.priority;
        held.key != waiting.key && self.wishes.get(held.key.as_str()).is_some_and(may)
    }

    /// Whether the agent would grant it, by its last measurement: not allocated yet is what is promised or loads. The
    /// measurement must be younger than `after`.
    pub fn is_really_there(&self, node: &str, new: &Terms, unallocated: Bytes, after: Option<Time>) -> bool {
        let Some(facts) = self.nodes.get(node) else { return false };
        let Some(measured) = facts.measured else { return false };
        let floor = node_with(facts, [], |_| false).floor();
        let needed = new.bytes + new.load_transient + unallocated + floor;
        after.is_none_or(|after| measured.at > after) && needed <= measured.available + UNPUBLISHED
    }
}
