//! Reservations as the planner knows them and as they are written. Pure.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime as KubeTime;
use k8s_openapi::jiff::Timestamp;
use kindling_api::{Reservation as Written, ReservationState, TERMS_ANNOTATION};
use kindling_envelope::Bytes;
use kindling_envelope::ledger::{Reservation, State, Terms, Time};
use kube::ResourceExt;
use serde::{Deserialize, Serialize};

/// Between a LocalModel's uid and the number of a copy, in the planner's keys.
pub const MODEL_COPY_SEPARATOR: char = '#';

/// What a pod was made with, in its annotation: an operator that lost its ledger finds it there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodTerms {
    /// Where it was placed.
    pub node: String,
    /// While it serves.
    pub bytes: u64,
    /// While it loads, beside them.
    pub load_transient_bytes: u64,
    /// Tokens per sequence.
    pub context_length: u64,
    /// Of what was asked.
    pub fingerprint: String,
    /// Whether it was admitted although it does not fit.
    #[serde(default)]
    pub is_overridden: bool,
}

/// The planner's key of a copy.
pub fn key(uid: &str, copy: u32) -> String {
    format!("{uid}{MODEL_COPY_SEPARATOR}{copy}")
}

/// The uid and the number of the copy in a key.
pub fn split_key(key: &str) -> (&str, u32) {
    let (uid, copy) = key.rsplit_once(MODEL_COPY_SEPARATOR).unwrap_or((key, "0"));
    (uid, copy.parse().unwrap_or(0))
}

/// A moment for the planner.
pub fn time(at: Timestamp) -> Time {
    Time(u64::try_from(at.as_millisecond()).unwrap_or(0))
}

fn timestamp(time: Time) -> KubeTime {
    let millis = i64::try_from(time.0).unwrap_or(i64::MAX);
    KubeTime(Timestamp::from_millisecond(millis).unwrap_or_default())
}

/// As the planner knows it.
pub fn to_planned(written: &Written) -> Reservation {
    Reservation {
        key: key(&written.uid, written.copy),
        name: written.model.clone(),
        model: written.uid.clone(),
        priority: written.priority,
        terms: Terms {
            bytes: Bytes(written.bytes),
            load_transient: Bytes(written.load_transient_bytes),
            context: u64::from(written.context_length),
            fingerprint: written.fingerprint.clone(),
            overridden: written.is_overridden,
        },
        state: match written.state {
            ReservationState::Pending => State::Pending,
            ReservationState::Loading => State::Loading,
            ReservationState::Resident => State::Resident,
            ReservationState::Releasing => State::Releasing,
        },
        since: time(written.since.0),
        made_at: time(written.made_at.0),
        measured: written.measured_bytes.map(Bytes),
        available_before: written.available_at_release_bytes.map(Bytes),
        gone_at: written.pod_gone_at.as_ref().map(|at| time(at.0)),
    }
}

/// As it is written.
pub fn to_written(planned: &Reservation, may_leave: bool) -> Written {
    let (uid, copy) = split_key(&planned.key);
    Written {
        uid: uid.to_owned(),
        copy,
        model: planned.name.clone(),
        state: match planned.state {
            State::Pending => ReservationState::Pending,
            State::Loading => ReservationState::Loading,
            State::Resident => ReservationState::Resident,
            State::Releasing => ReservationState::Releasing,
        },
        since: timestamp(planned.since),
        made_at: timestamp(planned.made_at),
        bytes: planned.terms.bytes.0,
        load_transient_bytes: planned.terms.load_transient.0,
        context_length: u32::try_from(planned.terms.context).unwrap_or(u32::MAX),
        priority: planned.priority,
        may_leave,
        fingerprint: planned.terms.fingerprint.clone(),
        is_overridden: planned.terms.overridden,
        measured_bytes: planned.measured.map(|bytes| bytes.0),
        available_at_release_bytes: planned.available_before.map(|bytes| bytes.0),
        pod_gone_at: planned.gone_at.map(timestamp),
    }
}

/// What a pod was made with, where it says so.
pub fn pod_terms(pod: &Pod) -> Option<PodTerms> {
    serde_json::from_str(pod.annotations().get(TERMS_ANNOTATION)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_as_it_was() {
        let at = |millis: u64| Time(1_700_000_000_000 + millis);
        let planned = Reservation {
            key: key("uid-1", 2),
            name: "models/llama".into(),
            model: "uid-1".into(),
            priority: -3,
            terms: Terms {
                bytes: Bytes(10),
                load_transient: Bytes(11),
                context: 12,
                fingerprint: "f".into(),
                overridden: true,
            },
            state: State::Releasing,
            since: at(1000),
            made_at: at(0),
            measured: Some(Bytes(13)),
            available_before: Some(Bytes(14)),
            gone_at: Some(at(2500)),
        };
        let written = to_written(&planned, true);
        assert_eq!(to_planned(&written), planned);
        let text = serde_json::to_string(&written).unwrap();
        let read: Written = serde_json::from_str(&text).unwrap();
        assert_eq!(to_planned(&read), planned, "{text}");
    }
}
