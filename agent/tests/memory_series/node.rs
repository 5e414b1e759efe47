//! A node whose memory is a series: the real desk with its watch, baseline and grants, the real pace of publishing, and
//! the planner that reads what was published. What the operator and the kubelet do between them is done here, at once.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use kindling_agent::daemon::desk::{Desk, DeskHandle, Ledger, Snapshot};
use kindling_agent::daemon::grants::{Measurement, ModelPod, Request};
use kindling_agent::daemon::memory::Reader;
use kindling_agent::daemon::publish::Pace;
use kindling_agent::daemon::watch::Floors;
use kindling_api::{MeasuredTerms, Pressure};
use kindling_envelope::Bytes;
use kindling_envelope::ledger::{
    Measured, NodeFacts, Plan, Pod, PodPhase, PodStep, Release, Reservation, Situation, Step, Time, Verdict, Wish, plan,
};
use kindling_proto::v1::HoldResponse;
use kindling_proto::v1::hold_response::Message;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;

use crate::series::Sample;
use crate::words::{on_demand, reservation, time, written};

/// How long a process that was told to go still holds its memory.
const DRAINS: u64 = 5;

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Reserved,
    Granted,
    Revoked,
    Ended(Release),
    Pressure(Pressure),
}

/// A process of a model.
struct Process {
    grant: u64,
    answers: mpsc::Receiver<Result<HoldResponse, Status>>,
    bytes: Bytes,
    ready_at: Option<u64>,
    gone_at: Option<u64>,
}

pub struct Node {
    folder: PathBuf,
    series: Vec<Sample>,
    began: Instant,
    pub second: u64,
    desk: DeskHandle,
    snapshots: watch::Receiver<Snapshot>,
    pace: Pace,
    pub times_published: usize,
    pub situation: Situation,
    plan: Plan,
    processes: BTreeMap<String, Process>,
    /// When what happened to whom.
    pub seen: Vec<(u64, String, Event)>,
    /// How long a model loads.
    pub load_seconds: u64,
    /// Where models serve already, an earlier agent had measured it.
    earlier_baseline: Option<Bytes>,
    _stop: DropGuard,
}

impl Node {
    /// A node on which these serve and those are wished; nothing was published yet.
    pub async fn start(name: &str, serving: Vec<Wish>, waiting: Vec<Wish>) -> Self {
        let folder = std::env::temp_dir().join(format!("kindling-memory-series-{}-{name}", std::process::id()));
        std::fs::create_dir_all(folder.join("pressure")).expect("a folder of its own");
        let series = crate::series::read(name);
        series[0].write(&folder);
        let reader = Reader::new(&folder).expect("the system has pages");
        let reading = reader.read().expect("it was written");
        let floors = Floors::of(reading.memory.total);
        let (desk, handle, snapshots) = Desk::new(reader, reading, floors);
        let shutdown = CancellationToken::new();
        tokio::spawn(desk.run(shutdown.clone()));
        let facts = NodeFacts {
            name: "n1".to_owned(),
            total: reading.memory.total,
            baseline: Bytes(0),
            others: Bytes(0),
            measured: None,
            agent: true,
            pressure: false,
            lost: false,
            cordoned: false,
            reservations: serving.iter().map(reservation).collect(),
        };
        let pods = serving.iter().map(|wish| pod(&reservation(wish), PodPhase::Ready, Time(60_000))).collect();
        let wishes = serving.iter().cloned().chain(waiting).collect();
        let mut node = Self {
            folder,
            series,
            began: Instant::now(),
            second: 0,
            desk: handle,
            snapshots,
            pace: Pace::default(),
            times_published: 0,
            situation: Situation { now: time(0), wishes, nodes: vec![facts], pods },
            plan: Plan::default(),
            processes: BTreeMap::new(),
            seen: Vec::new(),
            load_seconds: 20,
            earlier_baseline: (!serving.is_empty()).then_some(Bytes::gib(4)),
            _stop: shutdown.drop_guard(),
        };
        for wish in &serving {
            let held = reservation(wish);
            node.ask(&held, held.terms.bytes).await;
            node.says(&held.key, held.terms.bytes).await;
        }
        node.tell_ledger().await;
        node
    }

    pub fn facts(&mut self) -> &mut NodeFacts {
        &mut self.situation.nodes[0]
    }

    /// What is available in a second.
    pub fn available_at(&self, second: u64) -> Bytes {
        Bytes(self.series[second as usize].available << 10)
    }

    pub fn verdict(&self, key: &str) -> &Verdict {
        &self.plan.verdicts[key]
    }

    pub fn held(&self, key: &str) -> Option<&Reservation> {
        self.situation.nodes[0].reservations.iter().find(|held| held.key == key)
    }

    /// When that happened to it, each time.
    pub fn times(&self, key: &str, event: &Event) -> Vec<u64> {
        self.seen.iter().filter(|(_, whose, what)| whose == key && what == event).map(|(second, ..)| *second).collect()
    }

    /// When the memory of one that left was said to be back.
    pub fn ended(&self, key: &str) -> Vec<(u64, Release)> {
        let of = |(second, whose, what): &(u64, String, Event)| match what {
            Event::Ended(how) if whose == key => Some((*second, how.clone())),
            _ => None,
        };
        self.seen.iter().filter_map(of).collect()
    }

    /// Everything up to the end of that second.
    pub async fn run_to(&mut self, second: u64) {
        while self.second < second {
            self.second += 1;
            let before = Duration::from_millis(self.second * 1000 - 500);
            sleep_until(self.began + before).await;
            self.series[self.second as usize].write(&self.folder);
            sleep_until(self.began + before + Duration::from_millis(700)).await;
            self.hear().await;
            self.publish();
            if self.situation.nodes[0].measured.is_some() {
                self.operate().await;
            }
        }
    }

    pub async fn run_to_end(&mut self) {
        self.run_to(self.series.len() as u64 - 1).await;
    }

    /// Its process is gone, and so is its pod.
    pub async fn kill(&mut self, key: &str) {
        let process = self.processes.remove(key).expect("it has a process");
        self.desk.ended(process.grant).await;
        self.situation.pods.retain(|pod| pod.key != key);
    }

    async fn ask(&mut self, held: &Reservation, has: Bytes) {
        let (sender, answers) = mpsc::channel(16);
        let pod = ModelPod { uid: held.key.clone(), model: held.name.clone(), model_uid: Some(held.key.clone()) };
        let request = Request { resident: held.terms.bytes, load_transient: held.terms.load_transient, held: has };
        let grant = self.desk.ask(pod, request, sender).await.expect("the desk works");
        let process = Process { grant, answers, bytes: held.terms.bytes, ready_at: None, gone_at: None };
        self.processes.insert(held.key.clone(), process);
    }

    async fn says(&self, key: &str, bytes: Bytes) {
        let terms = MeasuredTerms { total_bytes: bytes.0, ..MeasuredTerms::default() };
        self.desk.measured(self.processes[key].grant, Measurement { terms, is_loaded: true }).await;
    }

    async fn tell_ledger(&self) {
        let wishes = &self.situation.wishes;
        let may_leave = |held: &Reservation| wishes.iter().any(|wish| wish.key == held.key && on_demand(wish));
        let reservations = self.situation.nodes[0].reservations.iter();
        let reservations = reservations.map(|held| written(held, may_leave(held))).collect();
        let published_baseline = self.earlier_baseline;
        self.desk.ledger(Ledger { exists: true, reservations, published_baseline }).await;
    }

    /// Runtimes hear what they may, load, and go when they were told to.
    async fn hear(&mut self) {
        let second = self.second;
        let keys: Vec<String> = self.processes.keys().cloned().collect();
        for key in keys {
            let process = self.processes.get_mut(&key).expect("it was listed");
            while let Ok(answer) = process.answers.try_recv() {
                match answer.expect("the desk does not end").message {
                    Some(Message::Granted(_)) => {
                        process.ready_at = Some(second + self.load_seconds);
                        self.seen.push((second, key.clone(), Event::Granted));
                    }
                    Some(Message::Revoked(_)) => {
                        process.gone_at = Some(second + DRAINS);
                        self.seen.push((second, key.clone(), Event::Revoked));
                    }
                    _ => {}
                }
            }
            let (is_ready, bytes) = (process.ready_at == Some(second), process.bytes);
            if process.gone_at.is_some_and(|at| at <= second) {
                self.kill(&key).await;
            } else if is_ready {
                self.says(&key, bytes).await;
                let pod = self.situation.pods.iter_mut().find(|pod| pod.key == key).expect("it has one");
                (pod.phase, pod.since) = (PodPhase::Ready, time(second));
            }
        }
    }

    /// What the cluster hears, when the pace says so.
    fn publish(&mut self) {
        let (at, snapshot) = (Duration::from_secs(self.second), self.snapshots.borrow().clone());
        if !self.pace.is_due(at, &snapshot) {
            return;
        }
        self.pace.published(at, &snapshot);
        self.times_published += 1;
        let (second, is_pressure) = (self.second, snapshot.pressure != Pressure::None);
        let facts = self.facts();
        facts.measured = Some(Measured { available: snapshot.reading.memory.available, at: time(second) });
        facts.baseline = snapshot.baseline.expect("else it is not due");
        for held in &mut facts.reservations {
            let holder = snapshot.holders.iter().find(|holder| holder.pod_uid == held.key);
            let measured = holder.and_then(|holder| holder.measured).map(|terms| Bytes(terms.total_bytes));
            held.measured = measured.or(held.measured);
        }
        if facts.pressure != is_pressure {
            facts.pressure = is_pressure;
            self.seen.push((second, String::new(), Event::Pressure(snapshot.pressure)));
        }
    }

    /// Plans, writes, and carries out what the plan says.
    async fn operate(&mut self) {
        self.situation.now = time(self.second);
        self.plan = plan(&self.situation);
        for change in &self.plan.changes {
            match &change.step {
                Step::Reserve => self.seen.push((self.second, change.key.clone(), Event::Reserved)),
                Step::Drop(how) => self.seen.push((self.second, change.key.clone(), Event::Ended(how.clone()))),
                _ => {}
            }
        }
        if let Some(ledger) = self.plan.ledgers.get("n1").cloned() {
            self.facts().reservations = ledger;
            self.tell_ledger().await;
        }
        for step in self.plan.pods.clone() {
            match step {
                PodStep::Make { key, .. } => {
                    let held = self.held(&key).expect("a pod follows a reservation").clone();
                    self.situation.pods.push(pod(&held, PodPhase::Starting, self.situation.now));
                    self.ask(&held, Bytes(0)).await;
                }
                PodStep::Delete { key, .. } => {
                    self.processes.get_mut(&key).expect("a pod has a process").gone_at = Some(self.second + DRAINS);
                    let pod = self.situation.pods.iter_mut().find(|pod| pod.key == key).expect("it has one");
                    pod.phase = PodPhase::Terminating;
                }
            }
        }
    }
}

fn pod(held: &Reservation, phase: PodPhase, since: Time) -> Pod {
    let Reservation { key, name, model, terms, .. } = held.clone();
    Pod { key, name, model, node: "n1".to_owned(), phase, since, terms }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
