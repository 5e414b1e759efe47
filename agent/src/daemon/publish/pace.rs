//! When a status is worth a write.

use std::time::Duration;

use kindling_api::{Holder, Pressure, Reservation, ReservationState};
use kindling_envelope::Bytes;

use crate::daemon::desk::Snapshot;

/// Smaller changes of memory are no news; on small machines 1 % of the memory.
const CHANGE: Bytes = Bytes::mib(256);
/// Memory changes all the time.
const SELDOM: Duration = Duration::from_secs(10);
/// While somebody waits for memory to come back: also when little of it does. And once after a reservation came into
/// another state: what is measured then is what the operator compares with when the model leaves.
const AWAITED: Duration = Duration::from_secs(1);
/// A status that is older than this is not to be believed.
const HEARTBEAT: Duration = Duration::from_secs(60);

/// What was published last.
#[derive(Debug, Default)]
pub struct Pace {
    last: Option<Published>,
}

#[derive(Debug)]
struct Published {
    at: Duration,
    is_read: bool,
    available: Bytes,
    baseline: Bytes,
    pressure: Pressure,
    holders: Vec<Holder>,
    seen: Vec<Seen>,
    exists: bool,
}

/// A reservation, by uid and copy, and a state of it in which memory was read.
type Seen = (String, u32, ReservationState);

impl Pace {
    /// Whether the cluster should hear of this now.
    pub fn is_due(&self, at: Duration, snapshot: &Snapshot) -> bool {
        // What an earlier process of this agent published is replaced only by what is known as well.
        let Some(baseline) = snapshot.baseline.filter(|_| snapshot.is_settled) else { return false };
        let Some(last) = &self.last else { return true };
        let exists = snapshot.ledger.as_ref().is_none_or(|ledger| ledger.exists);
        if last.pressure != snapshot.pressure || last.holders != snapshot.holders || (last.exists && !exists) {
            return true;
        }
        if snapshot.read_at.is_none() {
            return false; // a status that gets older says it
        }
        let since = at.saturating_sub(last.at);
        if since >= HEARTBEAT || !last.is_read {
            return true;
        }
        let memory = snapshot.reading.memory;
        let threshold = CHANGE.min(memory.total.percent(1));
        let is_news = last.available.0.abs_diff(memory.available.0) >= threshold.0
            || last.baseline.0.abs_diff(baseline.0) >= threshold.0;
        let is_awaited = is_awaited(snapshot) || seen(snapshot).iter().any(|state| !last.seen.contains(state));
        (is_awaited && since >= AWAITED) || (is_news && since >= SELDOM)
    }

    /// Notes that it did.
    pub fn published(&mut self, at: Duration, snapshot: &Snapshot) {
        self.last = Some(Published {
            at,
            is_read: snapshot.read_at.is_some(),
            available: snapshot.reading.memory.available,
            baseline: snapshot.baseline.unwrap_or_default(),
            pressure: snapshot.pressure,
            holders: snapshot.holders.clone(),
            seen: seen(snapshot),
            exists: snapshot.ledger.as_ref().is_some_and(|ledger| ledger.exists),
        });
    }
}

/// How far the reservations are, of which memory was read since they came so far: a reading may be a second old.
fn seen(snapshot: &Snapshot) -> Vec<Seen> {
    let reservations = snapshot.ledger.iter().flat_map(|ledger| &ledger.reservations);
    let is_read = |held: &&Reservation| snapshot.read_at.is_some_and(|read_at| read_at > held.since.0);
    reservations.filter(is_read).map(|held| (held.uid.clone(), held.copy, held.state)).collect()
}

/// Whether the operator waits for memory to come back: it goes on when it reads of it here.
fn is_awaited(snapshot: &Snapshot) -> bool {
    let reservations = snapshot.ledger.iter().flat_map(|ledger| &ledger.reservations);
    reservations.into_iter().any(|reservation| reservation.state == ReservationState::Releasing)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
    use k8s_openapi::jiff::Timestamp;

    use super::*;
    use crate::daemon::desk::Ledger;
    use crate::daemon::memory::{MemInfo, Reading};
    use crate::daemon::watch::Floors;

    fn snapshot(available: Bytes) -> Snapshot {
        let total = Bytes::gib(100);
        let memory = MemInfo { total, available, ..MemInfo::default() };
        Snapshot {
            looked: tokio::time::Instant::now(),
            read_at: Some(Timestamp::UNIX_EPOCH),
            reading: Reading { memory, ..Reading::default() },
            baseline: Some(Bytes(0)),
            floors: Floors::of(total),
            pressure: Pressure::None,
            holders: Vec::new(),
            is_settled: true,
            num_waiting: 0,
            num_revoked: 0,
            ledger: Some(Ledger { exists: true, ..Ledger::default() }),
        }
    }

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    /// Published at second 100 with 50 GiB.
    fn published() -> Pace {
        let mut pace = Pace::default();
        assert!(pace.is_due(seconds(100), &snapshot(Bytes::gib(50))), "the first one");
        pace.published(seconds(100), &snapshot(Bytes::gib(50)));
        pace
    }

    #[test]
    fn memory_is_told_seldom_and_only_if_it_changed() {
        let pace = published();
        let (little, much) = (Bytes::gib(50) + Bytes::mib(255), Bytes::gib(50) + Bytes::mib(256));
        assert!(!pace.is_due(seconds(109), &snapshot(much)));
        assert!(pace.is_due(seconds(110), &snapshot(much)));
        assert!(!pace.is_due(seconds(159), &snapshot(little)));
        assert!(pace.is_due(seconds(160), &snapshot(little)), "a sign of life");
    }

    #[test]
    fn on_a_small_machine_a_hundredth_is_news() {
        let mut small = snapshot(Bytes::mib(500));
        small.reading.memory.total = Bytes::gib(1);
        let mut pace = Pace::default();
        pace.published(seconds(0), &small);
        small.reading.memory.available = Bytes::mib(489);
        assert!(pace.is_due(seconds(10), &small));
    }

    #[test]
    fn pressure_holders_and_a_lost_object_are_told_at_once() {
        let pace = published();
        let same = || snapshot(Bytes::gib(50));
        assert!(!pace.is_due(seconds(101), &same()));
        assert!(pace.is_due(seconds(101), &Snapshot { pressure: Pressure::Low, ..same() }));
        assert!(pace.is_due(seconds(101), &Snapshot { holders: vec![Holder::default()], ..same() }));
        assert!(pace.is_due(seconds(101), &Snapshot { ledger: Some(Ledger::default()), ..same() }));
    }

    fn ledger(state: ReservationState) -> Ledger {
        let reservation = Reservation {
            uid: "u".into(),
            model: "team/a".into(),
            state,
            since: MicroTime(Timestamp::UNIX_EPOCH),
            made_at: MicroTime(Timestamp::UNIX_EPOCH),
            copy: 0,
            is_overridden: false,
            measured_bytes: None,
            bytes: 1,
            load_transient_bytes: 0,
            context_length: 1,
            priority: 0,
            may_leave: true,
            fingerprint: String::new(),
            available_at_release_bytes: None,
            pod_gone_at: None,
        };
        Ledger { exists: true, reservations: vec![reservation], published_baseline: None }
    }

    #[test]
    fn memory_that_somebody_waits_for_is_told_at_once() {
        let ledger = ledger(ReservationState::Releasing);
        assert!(
            published().is_due(seconds(101), &Snapshot { ledger: Some(ledger.clone()), ..snapshot(Bytes::gib(60)) })
        );
        let same = Snapshot { ledger: Some(ledger), ..snapshot(Bytes::gib(50)) };
        assert!(published().is_due(seconds(101), &same), "also that nothing came back yet");
    }

    #[test]
    fn what_a_model_took_is_told_once_it_was_read_after_it_became_resident() {
        let read_at = |seconds: i64, state| Snapshot {
            read_at: Some(Timestamp::UNIX_EPOCH + k8s_openapi::jiff::SignedDuration::from_secs(seconds)),
            ledger: Some(ledger(state)),
            ..snapshot(Bytes::gib(50))
        };
        let mut pace = Pace::default();
        pace.published(seconds(100), &read_at(1, ReservationState::Loading));
        assert!(!pace.is_due(seconds(101), &read_at(2, ReservationState::Loading)));
        assert!(!pace.is_due(seconds(101), &read_at(0, ReservationState::Resident)), "read before");
        assert!(pace.is_due(seconds(101), &read_at(2, ReservationState::Resident)));
        // The holders' news went out with the state and a reading from before it.
        pace.published(seconds(101), &read_at(0, ReservationState::Resident));
        assert!(pace.is_due(seconds(102), &read_at(1, ReservationState::Resident)));
        pace.published(seconds(102), &read_at(1, ReservationState::Resident));
        assert!(!pace.is_due(seconds(103), &read_at(2, ReservationState::Resident)));
    }

    #[test]
    fn what_cannot_be_read_is_not_told_and_gets_old() {
        let unread = Snapshot { read_at: None, ..snapshot(Bytes::gib(50)) };
        assert!(!published().is_due(seconds(1000), &unread));
        let without_baseline = Snapshot { baseline: None, ..unread };
        assert!(!Pace::default().is_due(seconds(0), &without_baseline));
    }

    #[test]
    fn holders_are_told_only_when_all_had_time_to_come_back() {
        let early = Snapshot { is_settled: false, ..snapshot(Bytes::gib(50)) };
        assert!(!Pace::default().is_due(seconds(5), &early));
    }
}
