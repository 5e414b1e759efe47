//! A plan while it is made.

use std::collections::BTreeMap;

use crate::Bytes;

use super::{
    Change, Leaving, MEASURED_EVERY, NodeFacts, Plan, Pod, PodPhase, PodStep, RELEASE_LIMIT, Release, Reservation,
    Situation, State, Step, Time, Verdict, Wish, release,
};

/// What was read, and what becomes of it so far. Everything is ordered by name, so that nothing depends on the order in
/// which it was read.
pub(super) struct Draft<'a> {
    pub now: Time,
    pub wishes: BTreeMap<&'a str, &'a Wish>,
    pub nodes: BTreeMap<&'a str, &'a NodeFacts>,
    /// By node and key.
    pub pods: BTreeMap<(&'a str, &'a str), &'a Pod>,
    /// By node, as they become.
    pub ledgers: BTreeMap<&'a str, Vec<Reservation>>,
    pub verdicts: BTreeMap<String, Verdict>,
    changes: Vec<Change>,
    look_again: Option<Time>,
}

impl<'a> Draft<'a> {
    pub fn new(situation: &'a Situation) -> Self {
        let ledger = |node: &'a NodeFacts| {
            let mut reservations = node.reservations.clone();
            reservations.sort_by(|a, b| a.key.cmp(&b.key));
            (node.name.as_str(), reservations)
        };
        Self {
            now: situation.now,
            wishes: situation.wishes.iter().map(|wish| (wish.key.as_str(), wish)).collect(),
            nodes: situation.nodes.iter().map(|node| (node.name.as_str(), node)).collect(),
            pods: situation.pods.iter().map(|pod| ((pod.node.as_str(), pod.key.as_str()), pod)).collect(),
            ledgers: situation.nodes.iter().map(ledger).collect(),
            verdicts: BTreeMap::new(),
            changes: Vec::new(),
            look_again: None,
        }
    }

    /// Notes what happens to a reservation.
    pub fn note(&mut self, node: &str, reservation: &Reservation, step: Step) {
        let (node, key, name) = (node.to_owned(), reservation.key.clone(), reservation.name.clone());
        self.changes.push(Change { node, key, name, step });
    }

    /// Time alone may change the answer then.
    pub fn look_again_at(&mut self, time: Time) {
        if time > self.now {
            self.look_again = Some(self.look_again.map_or(time, |earlier| earlier.min(time)));
        }
    }

    /// Whether there is a pod.
    pub fn pod(&self, node: &str, key: &str) -> Option<&'a Pod> {
        self.pods.get(&(node, key)).copied()
    }

    /// Where a wish has memory: the node and the reservation, of several the one that goes on.
    pub fn place(&self, key: &str) -> Option<(&'a str, &Reservation)> {
        let all = self.ledgers.iter().flat_map(|(node, list)| list.iter().map(|reservation| (*node, reservation)));
        all.filter(|(_, reservation)| reservation.key == key)
            .min_by_key(|(_, reservation)| reservation.state == State::Releasing)
    }

    /// Adds a reservation.
    pub fn add(&mut self, node: &'a str, reservation: Reservation, step: Step) {
        self.note(node, &reservation, step);
        let ledger = self.ledgers.entry(node).or_default();
        ledger.push(reservation);
        ledger.sort_by(|a, b| a.key.cmp(&b.key));
    }

    /// Another state of a reservation.
    pub fn move_to(&mut self, node: &str, key: &str, state: State, step: Step) {
        let (now, available) = (self.now, self.available_now(node));
        let Some(reservation) = self.find(node, key) else { return };
        reservation.state = state;
        reservation.since = now;
        if state == State::Releasing {
            reservation.available_before = available;
            reservation.gone_at = None;
        }
        let noted = reservation.clone();
        self.note(node, &noted, step);
    }

    /// What is available on a node, if that is known and what rises from now on is given back by what is released now.
    fn available_now(&self, node: &str) -> Option<Bytes> {
        let measured = self.nodes.get(node)?.measured?;
        let has_restarted = |held: &Reservation| {
            let pod = self.pod(node, &held.key).filter(|_| held.state == State::Resident);
            let pod = pod.filter(|pod| pod.phase != PodPhase::Terminating);
            pod.is_some_and(|pod| pod.since > held.since && self.now.since(pod.since) <= RELEASE_LIMIT)
        };
        // Whoever lost the ledger lost others too, and what they held comes back as if it were this one's.
        let was_found = |held: &Reservation| {
            let serves = matches!(held.state, State::Loading | State::Resident);
            serves && held.since == held.made_at && self.now.since(held.made_at) <= RELEASE_LIMIT
        };
        // Until it has loaded, what it takes falls and rises.
        let is_settled = release::unseen(self, node, measured, Some(State::Pending)) == Bytes(0);
        let is_recent = self.now.since(measured.at) <= MEASURED_EVERY;
        let is_disturbed = |held: &Reservation| has_restarted(held) || was_found(held);
        let is_clear = is_recent && is_settled && !self.ledgers.get(node)?.iter().any(is_disturbed);
        is_clear.then_some(measured.available)
    }

    /// Ends a reservation.
    pub fn drop(&mut self, node: &str, key: &str, how: Release) {
        let Some(ledger) = self.ledgers.get_mut(node) else { return };
        let Some(index) = ledger.iter().position(|reservation| reservation.key == key) else { return };
        let dropped = ledger.remove(index);
        self.note(node, &dropped, Step::Drop(how));
    }

    /// What leaves counts no more; what it held is kept to be measured.
    pub fn yield_room(&mut self, node: &str, key: &str) {
        let Some(held) = self.find(node, key) else { return };
        held.measured = held.measured.or(Some(held.terms.bytes));
        (held.terms.bytes, held.terms.load_transient) = (Bytes(0), Bytes(0));
        let noted = held.clone();
        self.note(node, &noted, Step::Yield);
    }

    /// Begins a release; what never had a pod holds nothing and ends at once.
    pub fn release(&mut self, node: &str, key: &str, why: Leaving) {
        let is_pending = self.find(node, key).is_some_and(|reservation| reservation.state == State::Pending);
        if is_pending && self.pod(node, key).is_none() {
            self.drop(node, key, Release::NeverStarted(why));
        } else {
            self.move_to(node, key, State::Releasing, Step::Release(why));
        }
    }

    /// A reservation, to change it.
    pub fn find(&mut self, node: &str, key: &str) -> Option<&mut Reservation> {
        self.ledgers.get_mut(node)?.iter_mut().find(|reservation| reservation.key == key)
    }

    /// The plan.
    pub fn into_plan(self, pods: Vec<PodStep>) -> Plan {
        let is_changed = |(node, list): &(&str, Vec<Reservation>)| {
            let mut read = self.nodes.get(node).map(|facts| facts.reservations.clone()).unwrap_or_default();
            read.sort_by(|a, b| a.key.cmp(&b.key));
            read != *list
        };
        let ledgers = self.ledgers.into_iter().filter(is_changed).map(|(node, list)| (node.to_owned(), list)).collect();
        let (changes, verdicts, look_again) = (self.changes, self.verdicts, self.look_again);
        Plan { ledgers, changes, pods, verdicts, look_again }
    }
}
