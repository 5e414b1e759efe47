use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kindling_api::ReservationState;

use super::*;

fn reservation(name: &str, gib: u64, state: ReservationState) -> Reservation {
    Reservation {
        uid: format!("uid-of-{name}"),
        model: format!("team/{name}"),
        state,
        since: MicroTime(Timestamp::UNIX_EPOCH),
        made_at: MicroTime(Timestamp::UNIX_EPOCH),
        copy: 0,
        is_overridden: false,
        measured_bytes: None,
        bytes: Bytes::gib(gib).0,
        load_transient_bytes: Bytes::gib(1).0,
        context_length: 4096,
        priority: 0,
        may_leave: true,
        fingerprint: String::new(),
        available_at_release_bytes: None,
        pod_gone_at: None,
    }
}

fn pod(name: &str) -> ModelPod {
    ModelPod { uid: format!("pod-{name}"), model: format!("team/{name}"), model_uid: Some(format!("uid-of-{name}")) }
}

fn asks(gib: u64) -> Request {
    Request { resident: Bytes::gib(gib), load_transient: Bytes::gib(1), held: Bytes(0) }
}

fn holds(gib: u64) -> Request {
    Request { held: Bytes::gib(gib), ..asks(gib) }
}

fn loaded(gib: u64) -> Measurement {
    let terms = MeasuredTerms { total_bytes: Bytes::gib(gib).0, ..MeasuredTerms::default() };
    Measurement { terms, is_loaded: true }
}

/// A node with 100 GiB available of which 10 must stay, past its start.
struct Desk {
    grants: Grants,
    reservations: Vec<Reservation>,
    available: Bytes,
    pressure: Pressure,
    second: u64,
}

impl Desk {
    fn just_started(reservations: Vec<Reservation>) -> Self {
        let (grants, pressure) = (Grants::default(), Pressure::None);
        Self { grants, reservations, available: Bytes::gib(100), pressure, second: 0 }
    }

    fn settled(reservations: Vec<Reservation>) -> Self {
        let mut desk = Self::just_started(reservations);
        assert_eq!(desk.decide(), []);
        desk.second = 10;
        assert_eq!(desk.decide(), []);
        desk
    }

    fn decide(&mut self) -> Vec<(u64, Answer)> {
        self.grants.decide(&Situation {
            at: Duration::from_secs(self.second),
            available: Some(self.available),
            floor_start: Bytes::gib(10),
            pressure: self.pressure,
            reservations: Some(&self.reservations),
        })
    }

    /// The only answer that is due, as text.
    fn only(&mut self) -> (u64, String) {
        let answers = self.decide();
        assert_eq!(answers.len(), 1, "{answers:?}");
        let (grant, answer) = answers.into_iter().next().unwrap();
        match answer {
            Answer::Waiting { why, .. } => (grant, why),
            other => (grant, format!("{other:?}")),
        }
    }
}

use ReservationState::{Loading, Pending, Releasing, Resident};

#[test]
fn the_last_byte_decides() {
    let mut desk = Desk::settled(vec![reservation("a", 89, Loading)]);
    let grant = desk.grants.ask(pod("a"), asks(89));
    desk.available = Bytes(Bytes::gib(100).0 - 1);
    let expected = Answer::Waiting {
        why:
            "needs 90.00 GiB, beside 0.00 MiB promised to others and 10.00 GiB that stay free; 100.00 GiB are available"
                .to_owned(),
        needed: Bytes::gib(100),
        available: desk.available,
    };
    assert_eq!(desk.decide(), [(grant, expected)]);
    desk.available = Bytes::gib(100);
    assert_eq!(desk.decide(), [(grant, Answer::Granted)]);
    assert_eq!(desk.decide(), [], "said once");
}

#[test]
fn what_is_promised_to_others_and_not_yet_taken_counts() {
    let mut desk = Desk::settled(vec![reservation("a", 40, Loading), reservation("b", 44, Loading)]);
    let first = desk.grants.ask(pod("a"), asks(40));
    assert_eq!(desk.only(), (first, "Granted".to_owned()));
    let second = desk.grants.ask(pod("b"), asks(44));
    assert_eq!(desk.only(), (second, "team/a loads, one at a time".to_owned()));
    // loaded, with 34 of its 40 GiB in use: 6 may come, 45 are asked for, 10 must stay, so 61 are needed
    desk.grants.measured(first, loaded(34));
    desk.available = Bytes::gib(60);
    desk.second += 2;
    assert!(desk.only().1.starts_with("needs 45.00 GiB, beside 6.00 GiB promised"), "one too few");
    desk.available = Bytes::gib(61);
    assert_eq!(desk.only(), (second, "Granted".to_owned()));
}

#[test]
fn nothing_without_a_reservation_that_covers_it() {
    let mut desk = Desk::settled(vec![
        reservation("small", 10, Pending),
        reservation("going", 10, Releasing),
        Reservation { load_transient_bytes: 0, ..reservation("tight", 10, Loading) },
    ]);
    for (name, gib, expected) in [
        ("stranger", 1, "no memory of this node is reserved for team/stranger"),
        ("small", 11, "11.00 GiB are asked for, 10.00 GiB are reserved"),
        ("tight", 10, "1.00 GiB are asked for while loading, 0.00 MiB are reserved"),
        ("going", 10, "the reservation of team/going is being released"),
    ] {
        let grant = desk.grants.ask(pod(name), asks(gib));
        assert_eq!(desk.only(), (grant, expected.to_owned()));
        desk.grants.end(grant);
    }
    // none of them holds up the next one, and the reservation is enough before the operator knows of the pod
    desk.grants.ask(pod("stranger"), asks(1));
    let small = desk.grants.ask(pod("small"), asks(10));
    assert!(desk.decide().contains(&(small, Answer::Granted)));
}

#[test]
fn a_pod_without_an_owner_is_found_by_its_models_name() {
    let mut desk = Desk::settled(vec![reservation("a", 10, Loading)]);
    let grant = desk.grants.ask(ModelPod { model_uid: None, ..pod("a") }, asks(10));
    assert_eq!(desk.only(), (grant, "Granted".to_owned()));
    let impostor = ModelPod { model_uid: Some("uid-of-an-earlier-a".to_owned()), ..pod("a") };
    desk.grants.end(grant);
    let grant = desk.grants.ask(impostor, asks(10));
    assert_eq!(desk.only(), (grant, "no memory of this node is reserved for team/a".to_owned()));
}

#[test]
fn higher_priority_first_then_who_came_first() {
    let high = Reservation { priority: 5, ..reservation("high", 10, Loading) };
    let mut desk = Desk::settled(vec![reservation("a", 10, Loading), reservation("b", 10, Loading), high]);
    desk.available = Bytes::gib(5);
    let names = ["a", "b", "high"];
    let grants = names.map(|name| desk.grants.ask(pod(name), asks(10)));
    desk.available = Bytes::gib(100);
    let mut order = Vec::new();
    for _ in names {
        desk.second += 2;
        let granted: Vec<_> = desk.decide().into_iter().filter(|(_, answer)| *answer == Answer::Granted).collect();
        assert_eq!(granted.len(), 1, "one loads at a time");
        order.push(granted[0].0);
        desk.grants.measured(granted[0].0, loaded(10));
    }
    assert_eq!(order, [grants[2], grants[0], grants[1]]);
}

#[test]
fn a_small_one_does_not_overtake_a_large_one_that_waits() {
    let mut desk = Desk::settled(vec![reservation("large", 95, Loading), reservation("small", 1, Loading)]);
    let large = desk.grants.ask(pod("large"), asks(95));
    assert!(desk.only().1.starts_with("needs 96.00 GiB"));
    let small = desk.grants.ask(pod("small"), asks(1));
    assert_eq!(desk.only(), (small, "team/large comes first".to_owned()));
    desk.grants.end(large);
    assert_eq!(desk.only(), (small, "Granted".to_owned()));
}

#[test]
fn after_a_restart_who_holds_memory_comes_first() {
    let ledger =
        vec![reservation("old", 40, Resident), reservation("new", 20, Loading), reservation("other", 1, Pending)];
    let mut desk = Desk::just_started(ledger);
    let new = desk.grants.ask(pod("new"), asks(20));
    let waits = "the agent has just started and waits for models that hold memory already";
    assert_eq!(desk.only(), (new, waits.to_owned()));
    desk.second = 9;
    assert_eq!(desk.decide(), []);
    let old = desk.grants.ask(pod("old"), holds(40));
    desk.grants.measured(old, loaded(40));
    assert_eq!(desk.decide(), [(old, Answer::Granted), (new, Answer::Granted)], "everybody is here");
}

#[test]
fn who_does_not_come_back_is_not_waited_for_longer_than_ten_seconds() {
    let mut desk = Desk::just_started(vec![reservation("gone", 40, Resident), reservation("new", 20, Loading)]);
    let new = desk.grants.ask(pod("new"), asks(20));
    desk.decide();
    desk.second = 10;
    assert_eq!(desk.only(), (new, "Granted".to_owned()));
}

#[test]
fn who_comes_back_gets_its_grant_without_reservation_under_pressure_and_takes_over_its_own_stream() {
    let mut desk = Desk::settled(Vec::new());
    desk.pressure = Pressure::Critical;
    desk.available = Bytes(0);
    let first = desk.grants.ask(pod("a"), holds(40));
    assert_eq!(desk.only(), (first, "Granted".to_owned()));
    let second = desk.grants.ask(pod("a"), holds(40));
    assert_eq!(desk.decide(), [(first, Answer::Superseded), (second, Answer::Granted)]);
    assert_eq!(desk.grants.entries().count(), 1);
}

#[test]
fn who_came_back_loads_until_it_says_otherwise() {
    let mut desk = Desk::settled(vec![reservation("b", 39, Loading)]);
    let back = desk.grants.ask(pod("a"), Request { held: Bytes::gib(10), ..asks(40) });
    desk.decide();
    let grant = desk.grants.ask(pod("b"), asks(39));
    assert_eq!(desk.only(), (grant, "team/a loads, one at a time".to_owned()));
    desk.grants.measured(back, loaded(40));
    assert_eq!(desk.only(), (grant, "Granted".to_owned()));
}

#[test]
fn two_copies_of_a_model_need_two_reservations() {
    let second = Reservation { copy: 1, ..reservation("a", 10, Loading) };
    let mut desk = Desk::settled(vec![reservation("a", 10, Resident), second]);
    let grants = ["p0", "p1", "p2"].map(|uid| desk.grants.ask(ModelPod { uid: uid.into(), ..pod("a") }, asks(10)));
    for grant in &grants[..2] {
        assert!(desk.decide().contains(&(*grant, Answer::Granted)));
        desk.grants.measured(*grant, loaded(10));
        desk.second += 2;
    }
    assert_eq!(desk.only(), (grants[2], "an earlier process of team/a still holds its memory".to_owned()));
}

#[test]
fn nothing_starts_under_pressure_or_blindly() {
    let mut desk = Desk::settled(vec![reservation("a", 1, Loading)]);
    let grant = desk.grants.ask(pod("a"), asks(1));
    desk.pressure = Pressure::Low;
    assert_eq!(desk.only(), (grant, "the node is short of memory, nothing starts".to_owned()));
    let blind = Situation {
        at: Duration::from_secs(60),
        available: None,
        floor_start: Bytes(0),
        pressure: Pressure::None,
        reservations: Some(&desk.reservations),
    };
    let answers = desk.grants.decide(&blind);
    assert!(matches!(&answers[..], [(_, Answer::Waiting { why, .. })] if why.contains("can't be read")), "{answers:?}");
    let unread = Situation { at: Duration::from_secs(70), reservations: None, ..blind };
    let answers = desk.grants.decide(&unread);
    assert!(matches!(&answers[..], [(_, Answer::Waiting { why, .. })] if why.contains("ledger")), "{answers:?}");
}

#[test]
fn a_second_process_of_a_model_waits_for_the_end_of_the_first() {
    let mut desk = Desk::settled(vec![reservation("a", 10, Loading)]);
    let first = desk.grants.ask(pod("a"), asks(10));
    desk.decide();
    desk.grants.measured(first, loaded(10));
    assert!(matches!(desk.grants.revoke(first, "low".into()), Some((_, Answer::Revoked { .. }))));
    assert_eq!(desk.grants.revoke(first, "low".into()), None, "said once");
    let second = desk.grants.ask(ModelPod { uid: "another".into(), ..pod("a") }, asks(10));
    assert_eq!(desk.only(), (second, "an earlier process of team/a still holds its memory".to_owned()));
    desk.grants.end(first);
    assert_eq!(desk.only(), (second, "Granted".to_owned()));
}

#[test]
fn a_reason_is_repeated_when_it_changed_and_not_too_often() {
    let mut desk = Desk::settled(vec![reservation("a", 95, Loading)]);
    desk.grants.ask(pod("a"), asks(95));
    let mut said = 0;
    for _ in 0..10 {
        desk.second += 1;
        desk.available = desk.available.saturating_sub(Bytes::gib(1));
        said += desk.decide().len();
    }
    assert_eq!(said, 5);
    desk.second += 60;
    assert_eq!(desk.decide().len(), 1, "what it was not told in between");
    desk.second += 60;
    assert_eq!(desk.decide(), [], "nothing new");
}
