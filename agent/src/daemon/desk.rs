//! The one task that knows how the node stands: everything that happens comes to it one after the other, and it asks
//! the pure parts what to do.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kindling_api::{Holder, Pressure, Reservation, ReservationState};
use kindling_envelope::Bytes;
use kindling_proto::v1::HoldResponse;
use tokio::sync::{mpsc, oneshot, watch as channel};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::grants::{Answer, Entry, Grants, Measurement, ModelPod, Request, Situation, Stage};
use super::memory::{Reader, Reading};
use super::service::messages;
use super::watch::{Baseline, Candidate, Floors, Quiet, Sample, Watch};

/// How often the memory is read.
const PERIOD: Duration = Duration::from_secs(1);
/// Events that may wait; who sends more is held up.
const QUEUE: usize = 64;

/// Where the answers to one runtime go.
pub type Answers = mpsc::Sender<Result<HoldResponse, Status>>;

/// What the agent knows of its own NodeEnvelope.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ledger {
    /// Whether the object is there.
    pub exists: bool,
    /// Its spec.
    pub reservations: Vec<Reservation>,
    /// What an agent of this node published last.
    pub published_baseline: Option<Bytes>,
}

/// How the node stands, for whoever tells others.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// When the desk last looked.
    pub looked: Instant,
    /// When the memory was last read; `None` while it can't be.
    pub read_at: Option<Timestamp>,
    /// The last reading.
    pub reading: Reading,
    /// In use without any model; `None` until the ledger says whether there are any.
    pub baseline: Option<Bytes>,
    /// What must stay available.
    pub floors: Floors,
    /// Whether it does.
    pub pressure: Pressure,
    /// Who holds a grant.
    pub holders: Vec<Holder>,
    /// Whether that are all: after the agent's start they need time to say that they are there.
    pub is_settled: bool,
    /// How many wait for one.
    pub num_waiting: usize,
    /// How many grants were taken back.
    pub num_revoked: u64,
    /// The NodeEnvelope, once it was read.
    pub ledger: Option<Ledger>,
}

/// The way to the desk.
#[derive(Debug, Clone)]
pub struct DeskHandle {
    events: mpsc::Sender<Event>,
}

#[derive(Debug)]
enum Event {
    Ask { pod: ModelPod, request: Request, answers: Answers, grant: oneshot::Sender<u64> },
    Measured { grant: u64, measurement: Measurement },
    Ended { grant: u64 },
    Ledger(Ledger),
}

impl DeskHandle {
    /// Asks for memory; answers come on their own. `None` if the agent ends.
    pub async fn ask(&self, pod: ModelPod, request: Request, answers: Answers) -> Option<u64> {
        let (sender, grant) = oneshot::channel();
        self.events.send(Event::Ask { pod, request, answers, grant: sender }).await.ok()?;
        grant.await.ok()
    }

    /// Says what a runtime takes.
    pub async fn measured(&self, grant: u64, measurement: Measurement) {
        // nobody listens any more only while the agent ends
        let _ = self.events.send(Event::Measured { grant, measurement }).await;
    }

    /// Ends a grant.
    pub async fn ended(&self, grant: u64) {
        let _ = self.events.send(Event::Ended { grant }).await;
    }

    /// Says how the NodeEnvelope is now.
    pub async fn ledger(&self, ledger: Ledger) {
        let _ = self.events.send(Event::Ledger(ledger)).await;
    }
}

/// See the module.
pub struct Desk {
    reader: Reader,
    began: Instant,
    read_at: Option<Timestamp>,
    reading: Reading,
    watch: Watch,
    baseline: Baseline,
    baseline_now: Option<Bytes>,
    grants: Grants,
    answers: BTreeMap<u64, Answers>,
    ledger: Option<Ledger>,
    num_revoked: u64,
    last_error: Option<String>,
    events: mpsc::Receiver<Event>,
    snapshots: channel::Sender<Snapshot>,
}

impl Desk {
    /// A desk for this node, the way to it, and what it sees.
    pub fn new(reader: Reader, reading: Reading, floors: Floors) -> (Self, DeskHandle, channel::Receiver<Snapshot>) {
        let (sender, events) = mpsc::channel(QUEUE);
        let first = Snapshot {
            looked: Instant::now(),
            read_at: None,
            reading,
            baseline: None,
            floors,
            pressure: Pressure::None,
            holders: Vec::new(),
            is_settled: false,
            num_waiting: 0,
            num_revoked: 0,
            ledger: None,
        };
        let (snapshots, receiver) = channel::channel(first);
        let desk = Self {
            reader,
            began: Instant::now(),
            read_at: None,
            reading,
            watch: Watch::new(floors),
            baseline: Baseline::default(),
            baseline_now: None,
            grants: Grants::default(),
            answers: BTreeMap::new(),
            ledger: None,
            num_revoked: 0,
            last_error: None,
            events,
            snapshots,
        };
        (desk, DeskHandle { events: sender }, receiver)
    }

    /// Works until the token is cancelled; then every runtime is told that its agent ends.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = ticks.tick() => self.tick(),
                Some(event) = self.events.recv() => self.take(event),
            }
            self.decide();
            self.publish();
        }
        for answers in self.answers.values() {
            // one who does not read its answers finds the stream ended
            let _ = answers.try_send(Err(Status::unavailable("the agent ends; come back with what you hold")));
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Once a second: a sample for the watch and the baseline.
    fn tick(&mut self) {
        self.read();
        if self.read_at.is_none() {
            return;
        }
        let (at, memory) = (self.now(), self.reading.memory);
        if self.ledger.is_some() {
            let used = memory.total.saturating_sub(memory.available);
            self.baseline_now = Some(self.baseline.step(at, used, self.quiet()));
        }
        let candidates = self.candidates();
        for taking in self.watch.step(Sample { at, available: memory.available }, &candidates) {
            if let Some((grant, answer)) = self.grants.revoke(taking.grant, taking.why) {
                self.num_revoked += 1;
                self.answer(grant, answer);
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Ask { pod, request, answers, grant } => {
                let model = pod.model.clone();
                let number = self.grants.ask(pod, request);
                tracing::info!(model, grant = number, ?request, "asks for memory");
                self.answers.insert(number, answers);
                if grant.send(number).is_err() {
                    self.forget(number); // hung up in between
                }
            }
            Event::Measured { grant, measurement } => self.grants.measured(grant, measurement),
            Event::Ended { grant } => self.forget(grant),
            Event::Ledger(ledger) => {
                if let (None, Some(earlier)) = (&self.ledger, ledger.published_baseline) {
                    self.baseline.remember(earlier);
                }
                self.ledger = Some(ledger);
            }
        }
    }

    /// With a reading of this moment: what was available a second ago may be gone.
    fn decide(&mut self) {
        let has_somebody_waiting = self.grants.entries().any(|(_, entry)| !entry.holds());
        if has_somebody_waiting {
            self.read();
        }
        let situation = Situation {
            at: self.now(),
            available: self.read_at.map(|_| self.reading.memory.available),
            floor_start: self.watch.floors().start,
            pressure: self.watch.pressure(),
            reservations: self.ledger.as_ref().map(|ledger| ledger.reservations.as_slice()),
        };
        for (grant, answer) in self.grants.decide(&situation) {
            self.answer(grant, answer);
        }
    }

    fn read(&mut self) {
        match self.reader.read() {
            Ok(reading) => {
                self.reading = reading;
                self.read_at = Some(Timestamp::now());
                self.last_error = None;
            }
            Err(error) => {
                self.read_at = None;
                let error = error.to_string();
                if self.last_error.as_ref() != Some(&error) {
                    tracing::error!(error, "the memory can't be read, nothing is granted");
                }
                self.last_error = Some(error);
            }
        }
    }

    fn answer(&mut self, grant: u64, answer: Answer) {
        let Some((_, entry)) = self.grants.entries().find(|(number, _)| *number == grant) else {
            self.answers.remove(&grant); // superseded: its stream ends
            return;
        };
        let model = &entry.pod.model;
        match &answer {
            Answer::Waiting { why, .. } => tracing::debug!(model, grant, why, "waits"),
            Answer::Revoked { why } => tracing::warn!(model, grant, why, "takes memory back"),
            answer => tracing::info!(model, grant, ?answer, "answered"),
        }
        let message = messages::response(&answer, &entry.request);
        let is_sent = self.answers.get(&grant).is_some_and(|answers| answers.try_send(Ok(message)).is_ok());
        if !is_sent {
            // hung or gone: its stream ends, and what it held is measured, not believed
            self.forget(grant);
        }
    }

    fn forget(&mut self, grant: u64) {
        self.grants.end(grant);
        self.answers.remove(&grant);
    }

    fn quiet(&self) -> Quiet {
        let reservations = self.ledger.iter().flat_map(|ledger| &ledger.reservations);
        let is_quiet = self.grants.entries().all(|(_, entry)| !entry.holds())
            && reservations.into_iter().all(|reservation| reservation.state == ReservationState::Pending);
        if is_quiet {
            return Quiet::Yes;
        }
        let said = |entry: &Entry| entry.measurement.map_or(0, |measurement| measurement.terms.total_bytes);
        Quiet::No(self.grants.entries().map(|(_, entry)| Bytes(said(entry).max(entry.request.held.0))).sum())
    }

    fn candidates(&self) -> Vec<Candidate> {
        let reservations = self.ledger.as_ref().map_or(&[][..], |ledger| ledger.reservations.as_slice());
        let granted = self.grants.entries().filter(|(_, entry)| entry.stage == Stage::Granted);
        let candidate = |(grant, entry): (u64, &Entry)| {
            let reservation = self.grants.reservation_of(grant, reservations);
            Candidate {
                grant,
                bytes: entry.bytes(),
                // nobody promised anything to one without a reservation
                priority: reservation.map_or(i32::MIN, |reservation| reservation.priority),
                may_leave: reservation.is_none_or(|reservation| reservation.may_leave),
            }
        };
        granted.map(candidate).collect()
    }

    fn publish(&self) {
        let holder = |(_, entry): (u64, &Entry)| Holder {
            model: entry.pod.model.clone(),
            pod_uid: entry.pod.uid.clone(),
            granted_bytes: entry.request.resident.0,
            measured: entry.measurement.map(|measurement| measurement.terms),
            is_revoked: entry.stage == Stage::Revoked,
        };
        let holds = |entry: &(u64, &Entry)| entry.1.holds();
        self.snapshots.send_replace(Snapshot {
            looked: Instant::now(),
            read_at: self.read_at,
            reading: self.reading,
            baseline: self.baseline_now,
            floors: self.watch.floors(),
            pressure: self.watch.pressure(),
            holders: self.grants.entries().filter(holds).map(holder).collect(),
            is_settled: self.grants.is_settled(),
            num_waiting: self.grants.entries().filter(|entry| !holds(entry)).count(),
            num_revoked: self.num_revoked,
            ledger: self.ledger.clone(),
        });
    }
}
