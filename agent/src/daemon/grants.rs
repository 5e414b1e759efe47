//! Who may take how much memory now. Pure: what is available and what time it is comes with every question.
//!
//! A grant lives as long as the stream that it was asked for on. The ledger (the reservations of the NodeEnvelope)
//! says who may have memory at all; this says when.

mod check;

use std::collections::BTreeMap;
use std::time::Duration;

use kindling_api::{MeasuredTerms, Pressure, Reservation};
use kindling_envelope::Bytes;

/// After its start the agent waits so long for the runtimes that hold memory already.
const REGISTRATION: Duration = Duration::from_secs(10);
/// A reason to wait is told anew at most this often.
const REPEAT: Duration = Duration::from_secs(2);

/// The pod that asks, as the cluster knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelPod {
    /// Its uid.
    pub uid: String,
    /// Its LocalModel as `namespace/name`.
    pub model: String,
    /// The LocalModel's uid, where the pod names its owner.
    pub model_uid: Option<String>,
}

/// What a runtime asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Request {
    /// While it serves.
    pub resident: Bytes,
    /// While it loads, beside the rest.
    pub load_transient: Bytes,
    /// Taken already, under an earlier grant.
    pub held: Bytes,
}

/// What a runtime measured of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Measurement {
    /// Term by term.
    pub terms: MeasuredTerms,
    /// Whether the load is over.
    pub is_loaded: bool,
}

/// One message to whoever asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Take it.
    Granted,
    /// Not yet.
    Waiting {
        /// For people.
        why: String,
        /// All that must be available, the floor included; nothing where memory is not the reason.
        needed: Bytes,
        /// What is.
        available: Bytes,
    },
    /// Give it back.
    Revoked {
        /// For people.
        why: String,
    },
    /// The same pod holds the memory on another stream now.
    Superseded,
}

/// What is known at the moment of a decision.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// Since any moment that stays the same.
    pub at: Duration,
    /// `MemAvailable`; `None` while it can't be read.
    pub available: Option<Bytes>,
    /// What must stay available when a model starts.
    pub floor_start: Bytes,
    /// Whether the node has enough.
    pub pressure: Pressure,
    /// The ledger; `None` until it was read.
    pub reservations: Option<&'a [Reservation]>,
}

/// One who asked.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Which pod.
    pub pod: ModelPod,
    /// For what.
    pub request: Request,
    /// How far it is.
    pub stage: Stage,
    /// What it said last.
    pub measurement: Option<Measurement>,
}

/// How far somebody who asked is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// Asked.
    Waiting {
        /// What it was told last, and when.
        told: Option<(Duration, String)>,
    },
    /// May take it.
    Granted,
    /// Was told to give it back.
    Revoked,
}

impl Entry {
    /// Whether memory is promised to it or held by it.
    pub fn holds(&self) -> bool {
        !matches!(self.stage, Stage::Waiting { .. })
    }

    /// What it holds, as far as it said; before it said anything, what it may take.
    pub fn bytes(&self) -> Bytes {
        let measured = self.measurement.map(|measurement| Bytes(measurement.terms.total_bytes));
        measured.filter(|bytes| *bytes > Bytes(0)).unwrap_or(self.request.resident)
    }

    /// Whoever came back loads too until it says that it does not.
    fn is_loading(&self) -> bool {
        let is_loaded = self.measurement.is_some_and(|measurement| measurement.is_loaded);
        self.stage == Stage::Granted && !is_loaded
    }

    /// Granted, and not taken from what is available yet.
    fn not_yet_taken(&self) -> Bytes {
        let Some(measurement) = self.measurement else {
            return (self.request.resident + self.request.load_transient).saturating_sub(self.request.held);
        };
        let transient = if measurement.is_loaded { Bytes(0) } else { self.request.load_transient };
        (self.request.resident + transient).saturating_sub(Bytes(measurement.terms.total_bytes))
    }

    fn reservations<'a>(&self, reservations: &'a [Reservation]) -> impl Iterator<Item = &'a Reservation> {
        reservations.iter().filter(|reservation| match &self.pod.model_uid {
            Some(uid) => reservation.uid == *uid,
            None => reservation.model == self.pod.model,
        })
    }
}

/// Everybody who asked and did not go, in the order in which they came.
#[derive(Debug, Default)]
pub struct Grants {
    entries: BTreeMap<u64, Entry>,
    last: u64,
    /// When the agent began, and whether it waited long enough.
    began: Option<Duration>,
    is_settled: bool,
}

impl Grants {
    /// Somebody asks. The answer comes with the next [`Grants::decide`].
    pub fn ask(&mut self, pod: ModelPod, request: Request) -> u64 {
        self.last += 1;
        let stage = Stage::Waiting { told: None };
        self.entries.insert(self.last, Entry { pod, request, stage, measurement: None });
        self.last
    }

    /// Somebody says what it takes.
    pub fn measured(&mut self, grant: u64, measurement: Measurement) {
        if let Some(entry) = self.entries.get_mut(&grant) {
            entry.measurement = Some(measurement);
        }
    }

    /// Somebody went; its memory is free or on its way.
    pub fn end(&mut self, grant: u64) {
        self.entries.remove(&grant);
    }

    /// Takes a grant back. Its memory counts until it goes.
    pub fn revoke(&mut self, grant: u64, why: String) -> Option<(u64, Answer)> {
        let entry = self.entries.get_mut(&grant).filter(|entry| entry.stage == Stage::Granted)?;
        entry.stage = Stage::Revoked;
        Some((grant, Answer::Revoked { why }))
    }

    /// All of them.
    pub fn entries(&self) -> impl Iterator<Item = (u64, &Entry)> {
        self.entries.iter().map(|(grant, entry)| (*grant, entry))
    }

    /// Whether everybody who held memory before the agent's start is here, or had time to be.
    pub fn is_settled(&self) -> bool {
        self.is_settled
    }

    /// What the ledger says about a grant.
    pub fn reservation_of<'a>(&self, grant: u64, reservations: &'a [Reservation]) -> Option<&'a Reservation> {
        self.entries.get(&grant)?.reservations(reservations).next()
    }

    /// Answers whoever can be answered now. Call it after everything that happened, and once a second.
    pub fn decide(&mut self, now: &Situation<'_>) -> Vec<(u64, Answer)> {
        let mut answers = self.welcome_back();
        self.settle(now);
        for (grant, answer) in self.check(now) {
            match answer {
                Answer::Waiting { .. } => answers.extend(self.tell(grant, answer, now.at)),
                _ => {
                    self.set_stage(grant, Stage::Granted);
                    answers.push((grant, answer));
                }
            }
        }
        answers
    }

    /// Whoever lost its agent and holds memory gets its grant again: the memory is taken, whatever is said now.
    fn welcome_back(&mut self) -> Vec<(u64, Answer)> {
        let is_back = |entry: &Entry| !entry.holds() && entry.request.held > Bytes(0);
        let back: Vec<u64> = self.entries().filter(|(_, entry)| is_back(entry)).map(|(grant, _)| grant).collect();
        let mut answers = Vec::new();
        for grant in back {
            let pod_uid = self.entries[&grant].pod.uid.clone();
            let is_earlier = |other: &(u64, &Entry)| other.0 < grant && other.1.pod.uid == pod_uid;
            let earlier: Vec<u64> = self.entries().filter(is_earlier).map(|(other, _)| other).collect();
            for other in earlier {
                self.entries.remove(&other);
                answers.push((other, Answer::Superseded));
            }
            self.set_stage(grant, Stage::Granted);
            answers.push((grant, Answer::Granted));
        }
        answers
    }

    /// Whether everybody who may hold memory since before the agent's start had time to say so.
    fn settle(&mut self, now: &Situation<'_>) {
        let began = *self.began.get_or_insert(now.at);
        let Some(reservations) = now.reservations else { return };
        let has_asked = |reservation: &&Reservation| {
            self.entries.values().any(|entry| entry.reservations(std::slice::from_ref(*reservation)).next().is_some())
        };
        let is_late = now.at.saturating_sub(began) >= REGISTRATION;
        let all_are_here = || reservations.iter().filter(check::may_hold).all(|reservation| has_asked(&reservation));
        self.is_settled = self.is_settled || is_late || all_are_here();
    }

    /// Passes a reason on if it is news and not too soon.
    fn tell(&mut self, grant: u64, answer: Answer, at: Duration) -> Option<(u64, Answer)> {
        let Answer::Waiting { why, .. } = &answer else { return None };
        let Stage::Waiting { told } = &mut self.entries.get_mut(&grant)?.stage else { return None };
        let is_news = told.as_ref().is_none_or(|(then, text)| text != why && at.saturating_sub(*then) >= REPEAT);
        if !is_news {
            return None;
        }
        *told = Some((at, why.clone()));
        Some((grant, answer))
    }

    fn set_stage(&mut self, grant: u64, stage: Stage) {
        if let Some(entry) = self.entries.get_mut(&grant) {
            entry.stage = stage;
        }
    }
}

#[cfg(test)]
mod tests;
