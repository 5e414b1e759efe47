//! Who of those that wait may begin: at most one, the first of the highest priority.

use kindling_api::{Pressure, Reservation, ReservationState};
use kindling_envelope::Bytes;

use super::{Answer, Entry, Grants, Situation};

impl Grants {
    /// An answer for everybody who waits.
    pub(super) fn check(&self, now: &Situation<'_>) -> Vec<(u64, Answer)> {
        let mut answers = Vec::new();
        let mut covered = Vec::new();
        for (grant, entry) in self.entries().filter(|(_, entry)| !entry.holds()) {
            match self.cover(entry, now.reservations) {
                Ok(priority) => covered.push((priority, grant, entry)),
                Err(why) => answers.push((grant, waiting(why, now))),
            }
        }
        // Among equals first come, first served. Who is behind waits even if it would fit: else a small one after the
        // other would keep a large one waiting for ever.
        covered.sort_by_key(|(priority, grant, _)| (std::cmp::Reverse(*priority), *grant));
        let mut first: Option<&Entry> = None;
        for (_, grant, entry) in covered {
            let answer = match first {
                None => self.check_first(entry, now),
                Some(first) => waiting(format!("{} comes first", first.pod.model), now),
            };
            first = first.or(Some(entry));
            answers.push((grant, answer));
        }
        answers
    }

    /// The priority of the reservation that covers what is asked for.
    fn cover(&self, entry: &Entry, reservations: Option<&[Reservation]>) -> Result<i32, String> {
        let reservations = reservations.ok_or("the agent has not read the ledger of this node yet")?;
        let model = &entry.pod.model;
        let own: Vec<_> = entry.reservations(reservations).collect();
        if own.is_empty() {
            return Err(format!("no memory of this node is reserved for {model}"));
        }
        let kept = own.iter().filter(|reservation| reservation.state != ReservationState::Releasing);
        let largest = kept.max_by_key(|reservation| reservation.bytes);
        let reservation = largest.ok_or_else(|| format!("the reservation of {model} is being released"))?;
        for (what, asked, reserved) in [
            ("", entry.request.resident, reservation.bytes),
            (" while loading", entry.request.load_transient, reservation.load_transient_bytes),
        ] {
            if asked > Bytes(reserved) {
                return Err(format!("{asked} are asked for{what}, {} are reserved", Bytes(reserved)));
            }
        }
        let holders = self.entries().filter(|(_, other)| other.holds() && other.pod.model == *model).count();
        if holders >= own.len() {
            return Err(format!("an earlier process of {model} still holds its memory"));
        }
        Ok(reservation.priority)
    }

    fn check_first(&self, entry: &Entry, now: &Situation<'_>) -> Answer {
        if !self.is_settled {
            return waiting("the agent has just started and waits for models that hold memory already".into(), now);
        }
        if now.pressure != Pressure::None {
            return waiting("the node is short of memory, nothing starts".into(), now);
        }
        if let Some((_, other)) = self.entries().find(|(_, other)| other.is_loading()) {
            return waiting(format!("{} loads, one at a time", other.pod.model), now);
        }
        let Some(available) = now.available else {
            return waiting("the memory of the node can't be read".into(), now);
        };
        let own = entry.request.resident + entry.request.load_transient;
        let promised: Bytes =
            self.entries().filter(|(_, other)| other.holds()).map(|(_, other)| other.not_yet_taken()).sum();
        let needed = own + promised + now.floor_start;
        if needed <= available {
            return Answer::Granted;
        }
        let floor = now.floor_start;
        let why = format!(
            "needs {own}, beside {promised} promised to others and {floor} that stay free; {available} are available"
        );
        Answer::Waiting { why, needed, available }
    }
}

/// Whether a process of this reservation may hold memory.
pub(super) fn may_hold(reservation: &&Reservation) -> bool {
    matches!(reservation.state, ReservationState::Loading | ReservationState::Resident)
}

/// A reason that is not a lack of memory.
fn waiting(why: String, now: &Situation<'_>) -> Answer {
    Answer::Waiting { why, needed: Bytes(0), available: now.available.unwrap_or_default() }
}
