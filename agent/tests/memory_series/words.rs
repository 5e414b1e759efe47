//! The words of the planner and of the NodeEnvelope for the same things.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kindling_api::ReservationState;
use kindling_envelope::ledger::{Activation, Need, Policy, Reservation, State, Time, Wish};
use kindling_envelope::{Activations, Bytes, CacheLayers, Device, Footprint, KvDtype, Model, Pool, Serving};

/// A model of so many GiB that is wished always, with 1 GiB beside them while it loads.
pub fn wish(key: &str, gib: u64, priority: i32) -> Wish {
    Wish {
        key: key.to_owned(),
        name: format!("team/{key}"),
        model: key.to_owned(),
        need: Some(need(gib)),
        priority,
        activation: Activation::Always,
        wanted_since: Time(0),
        last_used: None,
        min_resident: Duration::from_secs(60),
        load_time: None,
        policy: Policy::Enforce,
        nodes: BTreeSet::from(["n1".to_owned()]),
        weights_on: BTreeSet::from(["n1".to_owned()]),
        not_before: None,
    }
}

/// The same, and only when a request waits for it: none does.
pub fn idle(key: &str, gib: u64, priority: i32) -> Wish {
    Wish { activation: Activation::OnDemand { keep_alive: None, requested: false }, ..wish(key, gib, priority) }
}

pub fn on_demand(wish: &Wish) -> bool {
    matches!(wish.activation, Activation::OnDemand { .. })
}

fn need(gib: u64) -> Need {
    let nothing = Bytes(0);
    let model = Model {
        weights: Bytes::gib(gib),
        largest_tensor: Bytes::gib(1),
        cache: vec![CacheLayers::Full { layers: 1, kv_heads: 1, head_dim: 1024 }],
        activations: Activations::Planned { fixed: nothing, per_token: nothing, per_sequence: nothing },
        max_context: 131_072,
        vocabulary: None,
    };
    let serving = Serving {
        context: 4096,
        concurrency: 4,
        pool: Pool::Contexts(2),
        max_batched_tokens: 2048,
        kv_dtype: KvDtype::Bf16,
        device: Device::Cpu,
    };
    let (weights, load_transient) = (Bytes::gib(gib), Bytes::gib(1));
    let footprint = Footprint { weights, kv_cache: nothing, activations: nothing, runtime: nothing, load_transient };
    Need { footprint, model, serving, fingerprint: "as asked".to_owned() }
}

/// The planner's clock, which began long before the series.
pub fn time(second: u64) -> Time {
    Time((1_000_000 + second) * 1000)
}

/// Of one that has served since long before.
pub fn reservation(wish: &Wish) -> Reservation {
    Reservation {
        key: wish.key.clone(),
        name: wish.name.clone(),
        model: wish.model.clone(),
        priority: wish.priority,
        terms: wish.need.as_ref().expect("it is known").terms(),
        state: State::Resident,
        since: Time(60_000),
        made_at: Time(0),
        measured: None,
        available_before: None,
        gone_at: None,
    }
}

/// As the agent reads it.
pub fn written(held: &Reservation, may_leave: bool) -> kindling_api::Reservation {
    let time = |time: Time| MicroTime(Timestamp::from_millisecond(time.0 as i64).expect("it is of this century"));
    kindling_api::Reservation {
        uid: held.key.clone(),
        copy: 0,
        model: held.name.clone(),
        state: match held.state {
            State::Pending => ReservationState::Pending,
            State::Loading => ReservationState::Loading,
            State::Resident => ReservationState::Resident,
            State::Releasing => ReservationState::Releasing,
        },
        since: time(held.since),
        made_at: time(held.made_at),
        bytes: held.terms.bytes.0,
        load_transient_bytes: held.terms.load_transient.0,
        context_length: held.terms.context as u32,
        priority: held.priority,
        may_leave,
        fingerprint: held.terms.fingerprint.clone(),
        is_overridden: held.terms.overridden,
        measured_bytes: held.measured.map(|bytes| bytes.0),
        available_at_release_bytes: held.available_before.map(|bytes| bytes.0),
        pod_gone_at: held.gone_at.map(time),
    }
}
