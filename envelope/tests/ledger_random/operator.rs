//! The simulated operator: reads, plans, writes, and dies between any two writes. It remembers nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use kindling_envelope::ledger::{
    Activation, Measured, Need, NodeFacts, Plan, Pod, PodPhase, PodStep, Policy, Release, Reservation, Situation,
    State, Step, Terms, Time, Verdict, Wish, plan,
};
use kindling_envelope::{Activations, Bytes, CacheLayers, Device, Footprint, KvDtype, Model, Pool, Serving};

use crate::checker;
use crate::world::{Asked, Machine, Mode, Process, SECOND, Stage, World};

pub struct Operator {
    pub out_until: u64,
    look_again: u64,
    /// Once in so many writes it dies; never if nothing.
    pub dies_once_in: Option<u64>,
}

impl Operator {
    pub fn new(dies_once_in: Option<u64>) -> Self {
        Self { out_until: 0, look_again: 0, dies_once_in }
    }

    /// Whether the next write still happens.
    fn lives(&mut self, world: &mut World) -> bool {
        if self.dies_once_in.is_none_or(|times| !world.random.once_in(times)) {
            return true;
        }
        world.figures.crashes += 1;
        world.disturbed_at = world.now;
        self.out_until = world.now + world.random.between(0, 60) * SECOND;
        // Whoever starts again looks at everything.
        world.is_changed = true;
        false
    }

    pub fn operate(&mut self, world: &mut World) {
        if self.out_until > world.now || (!world.is_changed && self.look_again > world.now) {
            return;
        }
        world.is_changed = false;
        let situation = situation(world);
        let planned = plan(&situation);
        world.figures.plans += 1;
        is_the_same_in_another_order(world, &situation, &planned);
        self.look_again = planned.look_again.map_or(u64::MAX, |time| time.0);
        count(world, &planned);
        trace(world, &planned);
        for (node, list) in &planned.ledgers {
            if !self.lives(world) {
                return;
            }
            checker::on_write(world, node, &planned.ledgers);
            let machine = world.machines.get_mut(node).expect("a ledger has a node");
            machine.ledger.clone_from(list);
            machine.is_wiped = false;
            world.is_changed = true;
        }
        for machine in world.machines.values_mut() {
            // What is not in the plan was found to be right.
            machine.is_wiped = false;
        }
        note_who_waits(world);
        for step in &planned.pods {
            if !self.lives(world) {
                return;
            }
            carry_out(world, step);
        }
    }
}

/// With `KINDLING_LEDGER_TRACE` it says what it does.
fn trace(world: &World, planned: &Plan) {
    if std::env::var_os("KINDLING_LEDGER_TRACE").is_some() {
        let seconds = world.now / SECOND - 1_000_000;
        for change in &planned.changes {
            println!("{seconds:5} {} {} {:?}", change.node, change.key, change.step);
        }
        for step in &planned.pods {
            println!("{seconds:5} {step:?}");
        }
        for (key, verdict) in planned.verdicts.iter().filter(|(_, verdict)| verdict.node().is_none()) {
            println!("{seconds:5} {key}: {verdict}");
        }
    }
}

fn carry_out(world: &mut World, step: &PodStep) {
    match step {
        PodStep::Delete { node, key } => {
            checker::on_delete(world, node, key);
            world.delete_pod(key);
        }
        PodStep::Make { node, key } => {
            checker::on_make(world, node, key);
            let held = world.machines[node].ledger.iter().find(|held| held.key == *key).expect("checked").clone();
            let (drain_millis, start) = (world.random.between(0, 15) * SECOND, world.random.between(0, 5) * SECOND);
            // A model that nobody asks for any more is loaded all the same when its pod was decided.
            let (percent, load_millis) =
                world.asked.get(key).map_or((90, 5 * SECOND), |asked| (asked.really_percent, asked.load_millis));
            let process = Process {
                name: held.name,
                model: held.model,
                node: node.clone(),
                reserved: held.terms.bytes.0,
                transient: held.terms.load_transient.0,
                context: held.terms.context,
                fingerprint: held.terms.fingerprint,
                is_overridden: held.terms.overridden,
                holds: held.terms.bytes.0 / 100 * percent,
                load_millis,
                drain_millis,
                stage: Stage::Asking { from: world.now + start },
                has_restarted: false,
                reports: !world.random.once_in(5),
                served_since: None,
                serving_since: 0,
            };
            world.processes.insert(key.clone(), process);
            world.is_changed = true;
        }
    }
}

/// Since when a copy waits is kept in its status: it begins anew when it loses its place.
fn note_who_waits(world: &mut World) {
    let placed: BTreeSet<&String> =
        world.machines.values().flat_map(|machine| &machine.ledger).map(|held| &held.key).collect();
    for (key, asked) in &mut world.asked {
        let has_place = placed.contains(key);
        if asked.had_place && !has_place {
            asked.wanted_since = world.now;
        }
        asked.had_place = has_place;
    }
}

fn count(world: &mut World, planned: &Plan) {
    for change in &planned.changes {
        match &change.step {
            Step::Adopt => world.figures.adopted += 1,
            Step::Reserve => world.figures.admissions += 1,
            Step::Release(_) => world.figures.releases += 1,
            Step::Drop(Release::TimedOut) => world.figures.timed_out += 1,
            _ => {}
        }
    }
    for verdict in planned.verdicts.values() {
        assert!(!verdict.to_string().is_empty());
        world.figures.refused += u64::from(matches!(verdict, Verdict::Refused { .. }));
        world.figures.overridden += u64::from(matches!(verdict, Verdict::Overridden { .. }));
    }
    assert_eq!(planned.verdicts.len(), world.asked.len(), "every wish has its verdict");
}

fn is_the_same_in_another_order(world: &mut World, situation: &Situation, planned: &Plan) {
    if world.random.once_in(50) {
        let mut other = situation.clone();
        world.random.shuffle(&mut other.wishes);
        world.random.shuffle(&mut other.nodes);
        world.random.shuffle(&mut other.pods);
        for node in &mut other.nodes {
            world.random.shuffle(&mut node.reservations);
        }
        assert_eq!(*planned, plan(&other), "the order in which things are read decides nothing");
    }
}

fn situation(world: &World) -> Situation {
    let now = world.now;
    let nodes = world.machines.iter().map(|(name, machine)| NodeFacts {
        name: name.clone(),
        total: Bytes(machine.total),
        baseline: Bytes(machine.baseline),
        others: Bytes(machine.others),
        measured: machine.published.map(|(available, at)| Measured { available: Bytes(available), at: Time(at) }),
        agent: machine.agent_out_until <= now,
        pressure: machine.pressure_until > now,
        lost: !machine.is_online(now),
        cordoned: machine.cordoned_until > now,
        reservations: machine.ledger.iter().map(|held| measured(machine, held)).collect(),
    });
    let pods = world.processes.iter().filter(|(_, process)| world.machines.contains_key(&process.node));
    Situation {
        now: Time(now),
        wishes: world.asked.iter().map(|(key, asked)| wish(world, key, asked)).collect(),
        nodes: nodes.collect(),
        pods: pods.map(|(key, process)| pod(world, key, process)).collect(),
    }
}

/// With what its process was last measured to hold.
fn measured(machine: &Machine, held: &Reservation) -> Reservation {
    let holder = machine.holders.get(&held.key).map(|bytes| Bytes(*bytes));
    Reservation { measured: holder.or(held.measured), ..held.clone() }
}

fn pod(world: &World, key: &str, process: &Process) -> Pod {
    let is_online = world.machines[&process.node].is_online(world.now);
    let phase = match process.stage {
        Stage::Draining { .. } => PodPhase::Terminating,
        Stage::Serving if is_online => PodPhase::Ready,
        Stage::Asking { .. } | Stage::Loading { .. } | Stage::Serving => PodPhase::Starting,
    };
    let terms = Terms {
        bytes: Bytes(process.reserved),
        load_transient: Bytes(process.transient),
        context: process.context,
        fingerprint: process.fingerprint.clone(),
        overridden: process.is_overridden,
    };
    let (name, model, node) = (process.name.clone(), process.model.clone(), process.node.clone());
    let back_online = world.machines[&process.node].offline_until;
    let since = Time(process.serving_since.max(back_online));
    Pod { key: key.to_owned(), name, model, node, phase, since, terms }
}

fn wish(world: &World, key: &str, asked: &Asked) -> Wish {
    let activation = match asked.mode {
        Mode::Always => Activation::Always,
        Mode::Suspended => Activation::Suspended,
        Mode::OnDemand { keep_alive } => Activation::OnDemand {
            keep_alive: keep_alive.map(Duration::from_millis),
            requested: asked.requested_since.is_some(),
        },
    };
    let is_on_demand = matches!(asked.mode, Mode::OnDemand { .. });
    let waits = asked.requested_since.filter(|_| is_on_demand).unwrap_or(asked.wanted_since).max(asked.wanted_since);
    Wish {
        key: key.to_owned(),
        name: format!("default/{key}"),
        model: asked.model.clone(),
        need: asked.facts_known.then(|| need(asked)),
        priority: asked.priority,
        activation,
        wanted_since: Time(waits.min(world.now)),
        last_used: asked.last_used.map(Time),
        min_resident: Duration::from_millis(asked.min_resident),
        load_time: asked.load_known.then(|| Duration::from_millis(asked.load_millis)),
        policy: if asked.warns { Policy::Warn } else { Policy::Enforce },
        nodes: asked.nodes.clone(),
        weights_on: asked.weights_on.clone(),
        not_before: asked.not_before.map(Time),
    }
}

fn need(asked: &Asked) -> Need {
    let nothing = Bytes(0);
    let model = Model {
        weights: Bytes(asked.bytes),
        largest_tensor: Bytes(asked.transient),
        vocabulary: Some(128_256),
        cache: vec![CacheLayers::Full { layers: 8, kv_heads: 4, head_dim: 128 }],
        activations: Activations::Planned { fixed: nothing, per_token: nothing, per_sequence: nothing },
        max_context: 131_072,
    };
    let serving = Serving {
        context: 4096,
        concurrency: 4,
        pool: Pool::Contexts(2),
        max_batched_tokens: 2048,
        kv_dtype: KvDtype::Bf16,
        device: Device::Cpu,
    };
    // What a model takes is split as it comes: the planner may look at the sum alone.
    let (weights, kv_cache) = (Bytes(asked.needs() / 2), Bytes(asked.needs() - asked.needs() / 2));
    let footprint =
        Footprint { weights, kv_cache, activations: nothing, runtime: nothing, load_transient: Bytes(asked.transient) };
    Need { footprint, model, serving, fingerprint: format!("generation {}", asked.generation) }
}

/// What every state of a reservation is called by the checker.
pub fn is_held_for_good(state: State) -> bool {
    state != State::Releasing
}
