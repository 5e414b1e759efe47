//! Who gets memory next, and where.

use std::cmp::Reverse;

use crate::{Bytes, Shortfall};

use super::draft::Draft;
use super::lifecycle::aged_at;
use super::room::{Claim, check_alone, check_empty};
use super::verdict::{Busy, holders};
use super::{
    Activation, Leaving, Misfit, Need, NodeFacts, Policy, Reservation, State, Step, Terms, Time, Unusable, Verdict,
    Wish, change, evict, release,
};

/// Serves everybody who waits, in their order: by priority, then by how long they wait.
pub(super) fn admit(draft: &mut Draft<'_>) {
    let mut queue: Vec<&Wish> = draft.wishes.values().copied().collect();
    queue.sort_by_key(|wish| (Reverse(wish.priority), wish.wanted_since, wish.key.as_str()));
    let mut claims = Vec::new();
    for wish in queue {
        let place = draft.place(&wish.key).map(|(_, held)| held.state);
        if place.is_some_and(|state| state != State::Releasing) {
            change::change(draft, &mut claims, wish);
            continue;
        }
        let verdict = seek(draft, &mut claims, wish, place.is_some());
        draft.verdicts.insert(wish.key.clone(), verdict);
    }
}

/// Why a node takes nothing.
pub(super) fn unusable(facts: &NodeFacts) -> Option<Unusable> {
    match facts {
        NodeFacts { lost: true, .. } => Some(Unusable::Lost),
        NodeFacts { cordoned: true, .. } => Some(Unusable::Cordoned),
        NodeFacts { agent: false, .. } => Some(Unusable::NoAgent),
        NodeFacts { pressure: true, .. } => Some(Unusable::Pressure),
        _ => None,
    }
}

/// What a wish would freeze. Under [`Policy::Warn`] one that fits nowhere is let in on a node by itself.
pub(super) fn terms(draft: &Draft<'_>, wish: &Wish, need: &Need) -> Terms {
    let terms = need.terms();
    let fits = |node: &String| draft.nodes.get(node.as_str()).is_some_and(|facts| check_empty(facts, &terms).is_ok());
    let overridden = wish.policy == Policy::Warn && !wish.nodes.iter().any(fits);
    Terms { overridden, ..terms }
}

/// Finds memory for one that has none. `is_leaving` says that its own release is not over.
fn seek<'a>(draft: &mut Draft<'a>, claims: &mut Vec<Claim<'a>>, wish: &'a Wish, is_leaving: bool) -> Verdict {
    match wish.activation {
        Activation::Suspended => return Verdict::Suspended,
        Activation::OnDemand { requested: false, .. } => return Verdict::Idle,
        Activation::OnDemand { .. } | Activation::Always => {}
    }
    let Some(need) = &wish.need else { return Verdict::FactsUnknown };
    if let Some(until) = wish.not_before.filter(|until| *until > draft.now) {
        draft.look_again_at(until);
        return Verdict::BackingOff { until };
    }
    let terms = terms(draft, wish, need);
    let (nodes, others) = match open(draft, claims, (wish, need), &terms) {
        Ok(nodes) => nodes,
        Err(verdict) => return verdict,
    };
    draft.look_again_at(aged_at(wish));
    let mut search = Search { draft, claims, wish, terms, nodes };
    if is_leaving {
        search.keep_room();
        return search.awaits_own_release();
    }
    if let Some(last) = search.last_place() {
        return search.returns_to(last);
    }
    let verdict = search.take().or_else(|| search.await_release()).or_else(|| search.unload());
    verdict.or_else(|| search.bring_weights(&others)).unwrap_or_else(|| search.wait())
}

/// Nodes that may take it and have its weights, and those that have not; else why there are none with weights.
fn open<'a>(
    draft: &Draft<'a>,
    claims: &[Claim<'_>],
    (wish, need): (&Wish, &Need),
    terms: &Terms,
) -> Result<(Vec<&'a str>, Vec<&'a str>), Verdict> {
    let known: Vec<(&'a str, &NodeFacts)> = draft
        .nodes
        .iter()
        .filter(|(node, _)| wish.nodes.contains(**node))
        .map(|(node, facts)| (*node, *facts))
        .collect();
    if known.is_empty() {
        return Err(Verdict::NoNode);
    }
    let mut misfits: Vec<Misfit> = Vec::new();
    let mut fitting = Vec::new();
    for (node, facts) in known {
        match check_empty(facts, terms) {
            Ok(_) => fitting.push((node, facts)),
            Err(shortfall) => misfits.extend(evict::misfit(draft, node, (wish, need), shortfall, |_| false)),
        }
    }
    if fitting.is_empty() {
        return Err(Verdict::Refused { misfits });
    }
    if fitting.iter().all(|(node, _)| has_other_copy(draft, claims, node, wish)) {
        return Err(Verdict::OneCopyPerNode { nodes: fitting.into_iter().map(|(node, _)| node.to_owned()).collect() });
    }
    fitting.retain(|(node, _)| !has_other_copy(draft, claims, node, wish));
    let why_not = |(node, facts): &(&str, &NodeFacts)| unusable(facts).map(|why| ((*node).to_owned(), why));
    let not: Vec<(String, Unusable)> = fitting.iter().filter_map(why_not).collect();
    fitting.retain(|(_, facts)| unusable(facts).is_none());
    if fitting.is_empty() {
        return Err(Verdict::NoUsableNode { nodes: not });
    }
    let nodes: Vec<&'a str> = fitting.into_iter().map(|(node, _)| node).collect();
    let (ready, others): (Vec<&'a str>, Vec<&'a str>) =
        nodes.into_iter().partition(|node| wish.weights_on.contains(*node));
    if ready.is_empty() {
        return Err(Verdict::WaitingForWeights { nodes: others.into_iter().map(str::to_owned).collect() });
    }
    Ok((ready, others))
}

/// Whether another copy of the same model is on a node, or comes to it.
pub(super) fn has_other_copy(draft: &Draft<'_>, claims: &[Claim<'_>], node: &str, wish: &Wish) -> bool {
    let is_other = |model: &str, key: &str| model == wish.model && key != wish.key;
    let is_there = draft.ledgers.get(node).is_some_and(|list| list.iter().any(|held| is_other(&held.model, &held.key)));
    is_there || claims.iter().any(|claim| claim.node == node && is_other(&claim.wish.model, &claim.wish.key))
}

/// One wish and where it may go.
struct Search<'d, 'a> {
    draft: &'d mut Draft<'a>,
    claims: &'d mut Vec<Claim<'a>>,
    wish: &'a Wish,
    terms: Terms,
    nodes: Vec<&'a str>,
}

impl<'a> Search<'_, 'a> {
    fn fits(&self, node: &'a str, stays: impl Fn(&Reservation) -> bool) -> Result<Bytes, Shortfall> {
        self.draft.fits(node, &self.terms, self.claims, stays)
    }

    /// The node with room: the one with the least left, then by name.
    fn best(&self, stays: impl Fn(&Reservation) -> bool) -> Option<&'a str> {
        let room = self.nodes.iter().filter_map(|node| Some((self.fits(node, &stays).ok()?, *node)));
        room.min().map(|(_, node)| node)
    }

    fn claim(&mut self, node: &'a str, leaving: &[Reservation]) {
        let (wish, terms) = (self.wish, self.terms.clone());
        let leaving = leaving.iter().map(|held| held.key.clone()).collect();
        self.claims.push(Claim { node, wish, terms, leaving });
    }

    /// Room that is there.
    fn take(&mut self) -> Option<Verdict> {
        let all = self.nodes.clone();
        self.nodes.retain(|node| {
            let has_yielded = self.draft.ledgers[node].iter().any(release::has_yielded);
            !has_yielded || release::is_really_there(self.draft, node, &self.terms)
        });
        let node = self.best(|_| true);
        self.nodes = all;
        node.map(|node| self.reserve(node))
    }

    /// Room that comes when those are gone that leave already.
    fn await_release(&mut self) -> Option<Verdict> {
        let node = self.best(|held| held.state != State::Releasing)?;
        if release::is_really_there(self.draft, node, &self.terms) {
            release::yield_room(self.draft, node);
            return Some(self.reserve(node));
        }
        self.claim(node, &[]);
        Some(self.awaits(node))
    }

    /// Room that is made now.
    fn unload(&mut self) -> Option<Verdict> {
        let sets = self
            .nodes
            .iter()
            .filter_map(|node| Some((evict::cheapest(self.draft, node, self.wish, &self.terms, self.claims)?, *node)));
        let (set, node) = sets.min()?;
        for key in &set.keys {
            let in_use = self.draft.wishes.get(key.as_str()).is_some_and(|wish| wish.is_in_use(self.draft.now));
            self.draft.release(node, key, Leaving::For { name: self.wish.name.clone(), in_use });
        }
        self.claim(node, &[]);
        Some(self.awaits(node))
    }

    /// Room that is there where the weights are not, if where they are nobody is going to leave.
    fn bring_weights(&self, others: &[&'a str]) -> Option<Verdict> {
        if self.soonest().is_some() {
            return None;
        }
        let with_room = others.iter().filter(|node| self.fits(node, |_| true).is_ok());
        let nodes: Vec<String> = with_room.map(|node| (*node).to_owned()).collect();
        (!nodes.is_empty()).then_some(Verdict::WaitingForWeights { nodes })
    }

    /// Room that cannot be made yet, or not at all.
    fn wait(&mut self) -> Verdict {
        let Some((until, node, who)) = self.soonest() else { return self.waits_for_memory() };
        if self.draft.now >= aged_at(self.wish) {
            self.claim(node, &who);
        }
        self.draft.look_again_at(until);
        let who = holders(who.iter());
        Verdict::SwapDeferred { node: node.to_owned(), until, who }
    }

    /// Where it still had a place when the ledgers were read.
    fn last_place(&self) -> Option<&'a str> {
        let has = |facts: &NodeFacts| facts.reservations.iter().any(|held| held.key == self.wish.key);
        self.draft.nodes.iter().find(|(_, facts)| has(facts)).map(|(node, _)| *node)
    }

    /// Two ledgers are not written at once: in the plan that ends its last place it gets another one there or none.
    fn returns_to(&mut self, last: &'a str) -> Verdict {
        let all = self.nodes.clone();
        self.nodes.retain(|node| *node == last);
        if let Some(verdict) = self.take() {
            return verdict;
        }
        self.nodes = all;
        self.keep_room();
        Verdict::WaitingForRelease { node: last.to_owned(), who: Vec::new() }
    }

    /// While its own release is not over, nobody behind takes what it comes back to.
    fn keep_room(&mut self) {
        if let Some((_, node, who)) = self.soonest() {
            self.claim(node, &who);
        }
    }

    /// When and where enough may have left for it, and who.
    fn soonest(&self) -> Option<(Time, &'a str, Vec<Reservation>)> {
        let at = |node: &&'a str| {
            let (at, who) = evict::enough_at(self.draft, node, self.wish, &self.terms, self.claims)?;
            Some((at, *node, who))
        };
        self.nodes.iter().filter_map(at).min_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)))
    }

    fn reserve(&mut self, node: &'a str) -> Verdict {
        let (wish, now, terms) = (self.wish, self.draft.now, self.terms.clone());
        let verdict = match check_empty_of(self.draft, node, &terms) {
            Some(shortfall) if terms.overridden => Verdict::Overridden { node: node.to_owned(), shortfall },
            _ => Verdict::Admitted { node: node.to_owned(), state: State::Pending },
        };
        let reservation = Reservation {
            key: wish.key.clone(),
            name: wish.name.clone(),
            model: wish.model.clone(),
            priority: wish.priority,
            terms,
            state: State::Pending,
            since: now,
            made_at: now,
            measured: None,
            available_before: None,
            gone_at: None,
        };
        self.draft.add(node, reservation, Step::Reserve);
        verdict
    }

    /// Who leaves that node.
    fn awaits(&self, node: &'a str) -> Verdict {
        let leaving = self.draft.ledgers[node].iter().filter(|held| held.state == State::Releasing);
        Verdict::WaitingForRelease { node: node.to_owned(), who: holders(leaving) }
    }

    fn awaits_own_release(&self) -> Verdict {
        let own = self.draft.place(&self.wish.key);
        let node = own.map(|(node, _)| node.to_owned()).unwrap_or_default();
        Verdict::WaitingForRelease { node, who: holders(own.map(|(_, held)| held).into_iter()) }
    }

    /// Who holds what, and who is first.
    fn waits_for_memory(&self) -> Verdict {
        let mut nodes = Vec::new();
        for node in &self.nodes {
            let shortfall = self.draft.fits(node, &self.terms, &[], |_| true).err();
            nodes.push(Busy { node: (*node).to_owned(), shortfall, who: holders(self.draft.ledgers[node].iter()) });
        }
        let here = self.claims.iter().filter(|claim| self.nodes.contains(&claim.node));
        Verdict::WaitingForMemory { nodes, behind: here.map(|claim| claim.wish.name.clone()).collect() }
    }
}

/// What is missing on a node with nothing on it.
pub(super) fn check_empty_of(draft: &Draft<'_>, node: &str, terms: &Terms) -> Option<Shortfall> {
    draft.nodes.get(node).and_then(|facts| check_alone(facts, terms).err())
}
