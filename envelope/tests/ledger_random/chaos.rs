//! What happens to a cluster: users, and everything that goes wrong.

use std::collections::{BTreeMap, BTreeSet};

use crate::figures::Figures;
use crate::random::Random;
use crate::world::{Asked, GIB, MIB, Machine, Mode, SECOND, Stage, World};

pub fn world(seed: u64) -> World {
    let mut random = Random(seed);
    let machines: BTreeMap<String, Machine> =
        (0..random.between(1, 3)).map(|number| (format!("n{number}"), machine(&mut random))).collect();
    let mut world = World {
        now: 1_000_000 * SECOND,
        random,
        machines,
        processes: BTreeMap::new(),
        asked: BTreeMap::new(),
        figures: Figures { sets: 1, ..Figures::default() },
        is_changed: true,
        disturbed_at: 0,
        groups: Vec::new(),
    };
    for number in 0..world.random.between(2, 8) {
        apply(&mut world, number);
    }
    world
}

fn machine(random: &mut Random) -> Machine {
    let total = random.between(24 * 1024, 128 * 1024) * MIB;
    let baseline = random.between(1024, total / MIB / 6) * MIB;
    let others = if random.once_in(3) { random.between(0, 4096) * MIB } else { 0 };
    Machine {
        total,
        baseline,
        others,
        foreign: random.between(0, others / MIB) * MIB,
        offline_until: 0,
        agent_out_until: 0,
        pressure_until: 0,
        cordoned_until: 0,
        ledger: Vec::new(),
        published: None,
        holders: BTreeMap::new(),
        returning: Vec::new(),
        unclaimed: Vec::new(),
        released_against: BTreeMap::new(),
        held_at_end: BTreeMap::new(),
        is_wiped: false,
    }
}

/// A new model of one or two copies.
fn apply(world: &mut World, number: u64) {
    let random = &mut world.random;
    let largest = world.machines.values().map(|machine| machine.total).max().unwrap_or(0) / MIB;
    let bytes = if random.once_in(8) { random.between(largest / 2, largest) } else { random.between(512, largest / 2) };
    let mode = if random.once_in(4) { Mode::Always } else { Mode::OnDemand { keep_alive: keep_alive(random) } };
    let everywhere: BTreeSet<String> = world.machines.keys().cloned().collect();
    let some = |random: &mut Random, times: u64| -> BTreeSet<String> {
        everywhere.iter().filter(|_| !random.once_in(times)).cloned().collect()
    };
    let (nodes, weights_on) = (some(random, 8), some(random, 6));
    let (transient, really_percent) = (random.between(64, 4096) * MIB, random.between(85, 100));
    let (priority, warns) = (random.between(0, 2) as i32 - 1, random.once_in(10));
    let (min_resident, load_millis) = (random.between(0, 90) * SECOND, random.between(2, 40) * SECOND);
    let copies = if random.once_in(5) { 2 } else { 1 };
    for copy in 0..copies {
        let asked = Asked {
            model: format!("m{number}"),
            mode,
            priority: if random.once_in(2) { 0 } else { priority },
            bytes: bytes * MIB,
            transient,
            really_percent,
            learned: None,
            generation: 1,
            facts_known: !random.once_in(6),
            warns,
            nodes: nodes.clone(),
            weights_on: weights_on.clone(),
            min_resident,
            load_millis,
            load_known: false,
            wanted_since: world.now,
            requested_since: None,
            answered_at: None,
            last_used: None,
            had_place: false,
            not_before: None,
        };
        world.asked.insert(format!("m{number}-{copy}"), asked);
    }
    world.is_changed = true;
}

fn keep_alive(random: &mut Random) -> Option<u64> {
    match random.between(0, 3) {
        0 => None,
        1 => Some(0),
        _ => Some(random.between(5, 300) * SECOND),
    }
}

/// Requests come, wait, are answered and are over.
pub fn users(world: &mut World, requested_once_in: Option<u64>) {
    let now = world.now;
    let keys: Vec<String> = world.asked.keys().cloned().collect();
    if let Some(times) = requested_once_in
        && world.random.once_in(times)
        && let Some(key) = world.random.pick(&keys).cloned()
    {
        let asked = world.asked.get_mut(&key).expect("it was listed");
        if matches!(asked.mode, Mode::OnDemand { .. }) {
            asked.requested_since = asked.requested_since.or(Some(now));
            asked.last_used = Some(now);
            world.is_changed = true;
        }
    }
    for key in keys {
        let serves = world.processes.get(&key).is_some_and(|process| matches!(process.stage, Stage::Serving));
        let takes = world.random.between(1, 40) * SECOND;
        let asked = world.asked.get_mut(&key).expect("it was listed");
        let Some(_) = asked.requested_since else { continue };
        match asked.answered_at {
            None if serves => asked.answered_at = Some(now + takes),
            Some(at) if at <= now || !serves => {
                // What drains, ends its requests; what dies, loses them to the client.
                (asked.requested_since, asked.answered_at, asked.last_used) = (None, None, Some(now));
                world.figures.served += 1;
                world.is_changed = true;
            }
            _ => {}
        }
    }
}

/// One thing that goes wrong, or that somebody changes.
pub fn disturb(world: &mut World) {
    world.figures.disturbances += 1;
    world.disturbed_at = world.now;
    world.is_changed = true;
    match world.random.between(0, 13) {
        0 => {
            let number = 100 + world.figures.disturbances;
            apply(world, number);
        }
        1 => {
            if let Some(key) = some_key(world) {
                world.asked.remove(&key);
            }
        }
        2..=4 => change(world),
        5 => learn(world),
        6..=8 => break_machine(world),
        9 => wipe(world),
        10 => restart_container(world),
        11 => {
            let keys: Vec<String> = world.processes.keys().cloned().collect();
            if let Some(key) = world.random.pick(&keys).cloned() {
                world.delete_pod(&key);
            }
        }
        12 => replace_machine(world),
        _ => power_cycle(world),
    }
}

fn some_key(world: &mut World) -> Option<String> {
    let keys: Vec<String> = world.asked.keys().cloned().collect();
    world.random.pick(&keys).cloned()
}

fn some_node(world: &mut World) -> String {
    let nodes: Vec<String> = world.machines.keys().cloned().collect();
    world.random.pick(&nodes).cloned().expect("there is always a machine")
}

/// Another context, activation or priority; or facts and weights arrive.
fn change(world: &mut World) {
    let Some(key) = some_key(world) else { return };
    let everywhere: BTreeSet<String> = world.machines.keys().cloned().collect();
    let (what, percent) = (world.random.between(0, 4), world.random.between(40, 200));
    let mode = match world.random.between(0, 3) {
        0 => Mode::Always,
        1 => Mode::Suspended,
        _ => Mode::OnDemand { keep_alive: keep_alive(&mut world.random) },
    };
    let priority = world.random.between(0, 2) as i32 - 1;
    let (now, asked) = (world.now, world.asked.get_mut(&key).expect("it was listed"));
    match what {
        0 | 1 => {
            asked.bytes = (asked.bytes / 100 * percent).max(64 * MIB);
            asked.learned = None;
            asked.generation += 1;
        }
        2 => {
            asked.mode = mode;
            asked.wanted_since = now;
            if !matches!(mode, Mode::OnDemand { .. }) {
                (asked.requested_since, asked.answered_at) = (None, None);
            }
        }
        3 => asked.priority = priority,
        _ => (asked.facts_known, asked.weights_on) = (true, everywhere),
    }
}

/// What was measured corrects what is predicted next time.
fn learn(world: &mut World) {
    let Some(key) = some_key(world) else { return };
    let percent = world.random.between(85, 108);
    let asked = world.asked.get_mut(&key).expect("it was listed");
    asked.learned = Some(asked.bytes / 100 * percent);
}

fn break_machine(world: &mut World) {
    let node = some_node(world);
    let until = world.now + world.random.between(5, 200) * SECOND;
    let what = world.random.between(0, 3);
    let machine = world.machines.get_mut(&node).expect("it was listed");
    match what {
        0 => machine.offline_until = until,
        1 => machine.agent_out_until = until,
        2 => machine.pressure_until = until,
        _ => machine.cordoned_until = until,
    }
}

/// Somebody deletes a NodeEnvelope: it comes back empty, and pods hold what they held.
fn wipe(world: &mut World) {
    let node = some_node(world);
    let machine = world.machines.get_mut(&node).expect("it was listed");
    machine.ledger.clear();
    machine.is_wiped = true;
    machine.released_against.clear();
    for returning in &mut machine.returning {
        returning.is_unknown = true;
    }
}

/// A container ends and is started again in its pod; so is every one when a machine loses its power.
fn restart_container(world: &mut World) {
    let keys: Vec<String> = world.processes.keys().cloned().collect();
    let Some(key) = world.random.pick(&keys).cloned() else { return };
    let from = world.now + SECOND;
    let process = world.processes.get_mut(&key).expect("it was listed");
    if matches!(process.stage, Stage::Draining { .. }) {
        return;
    }
    let (held, node) = (process.allocated(), process.node.clone());
    (process.stage, process.has_restarted) = (Stage::Asking { from }, true);
    world.give_back(&node, &key, held);
    // What the ended container held is nowhere written beside what the next one holds.
    let machine = world.machines.get_mut(&node).expect("it has a pod");
    for own in machine.returning.iter_mut().filter(|returning| returning.key == key) {
        own.is_of_restart = true;
    }
}

fn power_cycle(world: &mut World) {
    let node = some_node(world);
    let until = world.now + world.random.between(30, 120) * SECOND;
    for process in world.processes.values_mut().filter(|process| process.node == node) {
        process.has_restarted = true;
        process.stage = match process.stage {
            Stage::Draining { until, .. } => Stage::Draining { until, held: 0 },
            _ => Stage::Asking { from: until },
        };
    }
    let machine = world.machines.get_mut(&node).expect("it was listed");
    machine.offline_until = until;
    machine.returning.clear();
}

/// A machine goes with its pods and its NodeEnvelope, and another of its name comes.
fn replace_machine(world: &mut World) {
    let node = some_node(world);
    let new = machine(&mut world.random);
    world.processes.retain(|_, process| process.node != node);
    world.machines.insert(node, new);
}

/// Everything that is out comes back, and nothing more goes wrong.
pub fn calm(world: &mut World) {
    let now = world.now;
    world.is_changed = true;
    world.disturbed_at = now;
    for machine in world.machines.values_mut() {
        for until in [
            &mut machine.offline_until,
            &mut machine.agent_out_until,
            &mut machine.pressure_until,
            &mut machine.cordoned_until,
        ] {
            *until = now.min(*until);
        }
    }
}

/// A machine with one large model that waits, and small ones that are used without a pause: together they leave it no
/// room, and one after the other they always leave some.
pub fn busy(seed: u64) -> World {
    let mut world = world(seed);
    let number = world.random.between(3, 5);
    world.asked.clear();
    world.machines = BTreeMap::from([(
        "n0".to_owned(),
        Machine { baseline: GIB, others: 0, foreign: 0, ..machine(&mut world.random) },
    )]);
    let total = world.machines["n0"].total / MIB;
    for index in 0..=number {
        apply(&mut world, index);
        let is_large = index == 0;
        let share = if is_large { world.random.between(60, 75) } else { world.random.between(15, 20) };
        let pause = world.random.between(1, 30) * SECOND;
        world.asked.retain(|key, _| !key.ends_with("-1"));
        let asked = world.asked.get_mut(&format!("m{index}-0")).expect("it was applied");
        asked.mode = Mode::OnDemand { keep_alive: Some(60 * SECOND) };
        asked.bytes = total / 100 * share * MIB;
        (asked.transient, asked.priority, asked.facts_known, asked.warns) = (64 * MIB, 0, true, false);
        asked.nodes = BTreeSet::from(["n0".to_owned()]);
        asked.weights_on = asked.nodes.clone();
        asked.requested_since = is_large.then_some(world.now + pause + 30 * SECOND);
    }
    world
}
