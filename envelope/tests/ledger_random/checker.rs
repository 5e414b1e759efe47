//! The independent checker: its own sums of the world's raw numbers. It shares no arithmetic with the planner.

use kindling_envelope::ledger::{Reservation, State};

use crate::world::{Asked, Machine, Mode, Returning, SECOND, Stage, World};

/// What no model gets, by the design's section 5: others, and the largest of a tenth and the baseline with the floor.
fn kept_back(machine: &Machine) -> u64 {
    let tenth = machine.total / 10 + u64::from(!machine.total.is_multiple_of(10));
    tenth.max(machine.baseline + machine.floor()) + machine.others
}

/// Whether bytes, with the largest of what loads, fit a machine.
fn fits(machine: &Machine, held: &[(u64, u64)]) -> bool {
    let sum: u64 = held.iter().map(|(bytes, _)| bytes).sum();
    let largest = held.iter().map(|(_, transient)| *transient).max().unwrap_or(0);
    sum + largest + kept_back(machine) <= machine.total
}

fn pair(held: &Reservation) -> (u64, u64) {
    (held.terms.bytes.0, held.terms.load_transient.0)
}

/// Before the operator writes a ledger.
pub fn on_write(world: &mut World, node: &str, new: &[Reservation]) {
    let old = world.machines[node].ledger.clone();
    let mut ended = Vec::new();
    for before in &old {
        match new.iter().find(|after| after.key == before.key && after.made_at == before.made_at) {
            None => {
                may_end(world, node, before);
                ended.push(before.key.clone());
            }
            Some(after) => {
                let has_pod = world.processes.get(&before.key).is_some_and(|process| process.node == node);
                let only_shrinks = before.state == State::Releasing && after.terms.bytes <= before.terms.bytes;
                assert!(before.terms == after.terms || has_pod || only_shrinks, "{} is frozen", before.key);
                if before.state != State::Releasing && after.state == State::Releasing {
                    may_leave(world, node, before, new);
                }
            }
        }
    }
    remember_group(world, node, &ended);
    for after in new {
        if !old.iter().any(|before| before.key == after.key && before.made_at == after.made_at) {
            may_come(world, node, after);
        }
    }
    is_not_overcommitted(world, node, new);
}

fn is_not_overcommitted(world: &World, node: &str, ledger: &[Reservation]) {
    let machine = &world.machines[node];
    let held: Vec<(u64, u64)> = ledger.iter().map(pair).collect();
    // What has given its room away counts no more.
    world.figures.sums.set(world.figures.sums.get() + 1);
    let is_overridden = ledger.iter().any(|held| held.terms.overridden && held.terms.bytes.0 > 0);
    if is_overridden {
        assert!(ledger.len() == 1, "what fits nowhere has {node} for itself: {ledger:?}");
    } else if !fits(machine, &held) {
        println!("{node} is over-committed: {held:?} of {}", machine.total);
        world.figures.over_commitments.set(world.figures.over_commitments.get() + 1);
    }
}

/// A reservation ends only when its pod is gone, or was never made.
fn may_end(world: &World, node: &str, before: &Reservation) {
    let has_pod = world.processes.get(&before.key).is_some_and(|process| process.node == node);
    assert!(!has_pod, "the reservation of {} ended while its pod is there", before.key);
    assert!(
        matches!(before.state, State::Pending | State::Releasing),
        "{} was {:?} and ended without a release",
        before.key,
        before.state
    );
}

/// Of those that end together a fifth of the memory may still be on its way.
fn remember_group(world: &mut World, node: &str, ended: &[String]) {
    let group = world.groups.len();
    let machine = world.machines.get_mut(node).expect("a ledger has a node");
    let mut sum = 0;
    for returning in machine.returning.iter_mut().filter(|returning| ended.contains(&returning.key)) {
        returning.group = Some(group);
        sum += returning.bytes;
    }
    // What is back already is not listed any more.
    let reserved: u64 =
        machine.ledger.iter().filter(|held| ended.contains(&held.key)).map(|held| held.terms.bytes.0).sum();
    world.groups.push(reserved.max(sum));
}

/// Whoever leaves without reasons of its own leaves for another: then the rules of unloading hold.
fn may_leave(world: &mut World, node: &str, before: &Reservation, new: &[Reservation]) {
    let now = world.now;
    let process = world.processes.get(&before.key).filter(|process| process.node == node);
    let is_there = process.is_some_and(|process| !matches!(process.stage, Stage::Draining { .. }));
    let Some(asked) = world.asked.get(&before.key) else { return };
    let is_changed = format!("generation {}", asked.generation) != before.terms.fingerprint;
    if !is_there || asked.mode == Mode::Suspended {
        return;
    }
    let unused_since = asked.last_used.unwrap_or(0).max(before.since.0);
    if let Mode::OnDemand { keep_alive: Some(keep) } = asked.mode
        && asked.requested_since.is_none()
        && now >= unused_since + keep
    {
        return;
    }
    if is_changed {
        let fits_again = world.machines.iter().any(|(name, machine)| {
            let mut others: Vec<(u64, u64)> = staying(world, machine, &before.key, asked).collect();
            if name == node {
                // Who leaves at the same time and does not come back, stays no longer.
                let comes_back = |held: &Reservation| world.asked.get(&held.key).is_some_and(Asked::is_wanted);
                let leaves = |held: &&Reservation| held.state == State::Releasing && !comes_back(held);
                let ends = |held: &&Reservation| {
                    !new.iter().any(|other| other.key == held.key && other.made_at == held.made_at)
                };
                let ended = machine.ledger.iter().filter(ends);
                for leaving in new.iter().filter(leaves).chain(ended).map(pair) {
                    others.iter().position(|other| *other == leaving).map(|index| others.swap_remove(index));
                }
            }
            asked.nodes.contains(name) && machine.is_healthy(now) && (fits_with(machine, others, asked) || asked.warns)
        });
        if fits_again {
            return;
        }
    }
    assert!(asked.mode != Mode::Always, "{} is Always and was unloaded", before.key);
    let Some(since) = process.and_then(|process| process.served_since) else {
        panic!("{} was unloaded before it served", before.key)
    };
    assert!(now >= since + asked.stays(), "{} was unloaded after {} ms, too early", before.key, now - since);
    let priority = asked.priority;
    let mut waiting = world.asked.iter().filter(|(_, other)| other.is_wanted() && other.priority >= priority);
    assert!(waiting.any(|(key, _)| !has_place(world, key)), "{} was unloaded for nobody", before.key);
    world.figures.evictions += 1;
}

fn has_place(world: &World, key: &str) -> bool {
    let mut all = world.machines.values().flat_map(|machine| &machine.ledger);
    all.any(|held| held.key == key && crate::operator::is_held_for_good(held.state))
}

/// A new reservation: found with a pod, or made where it may be.
fn may_come(world: &World, node: &str, after: &Reservation) {
    let machine = &world.machines[node];
    let has_pod = world.processes.get(&after.key).is_some_and(|process| process.node == node);
    if has_pod {
        assert!(machine.is_wiped, "{} has a pod on {node} that nobody had reserved for", after.key);
        return;
    }
    assert_eq!(after.state, State::Pending, "{}", after.key);
    let asked = world.asked.get(&after.key).expect("a reservation is made for a wish");
    assert!(asked.is_wanted() && asked.facts_known && asked.nodes.contains(node) && asked.weights_on.contains(node));
    assert!(machine.is_healthy(world.now), "{node} takes nothing");
    assert_eq!(after.terms.bytes.0, asked.needs(), "it is made with what is known now");
    let mut all = world.machines.iter().flat_map(|(name, machine)| machine.ledger.iter().map(move |held| (name, held)));
    assert!(!all.any(|(name, held)| held.key == after.key && name != node), "{} has two places", after.key);
}

/// Before the operator makes a pod.
pub fn on_make(world: &World, node: &str, key: &str) {
    let machine = &world.machines[node];
    let held = machine.ledger.iter().find(|held| held.key == key);
    assert!(held.is_some_and(|held| held.state == State::Pending), "{key} has no reservation on {node}");
    assert!(!world.processes.contains_key(key), "{key} has a pod already");
    let mut here = world.processes.iter().filter(|(_, process)| process.node == node);
    let other = here.find(|(_, process)| process.is_loading());
    assert!(other.is_none(), "{key} would load on {node} beside {:?}", other.map(|(key, _)| key));
    assert!(machine.is_healthy(world.now) || machine.cordoned_until > world.now, "{node} takes nothing");
}

/// Before the operator deletes a pod.
pub fn on_delete(world: &World, node: &str, key: &str) {
    let held = world.machines[node].ledger.iter().find(|held| held.key == key);
    assert!(held.is_some_and(|held| held.state == State::Releasing), "{key} is deleted without a release");
}

/// At every moment.
pub fn at_any_time(world: &World) {
    for (node, machine) in &world.machines {
        is_not_overcommitted(world, node, &machine.ledger);
        promises_are_covered(world, node, machine);
        let first_loads = world
            .processes
            .values()
            .filter(|process| process.node == *node && process.is_loading() && !process.has_restarted);
        assert!(first_loads.count() <= 1, "two load on {node}");
    }
    for (key, process) in &world.processes {
        let Some(machine) = world.machines.get(&process.node) else { continue };
        let is_reserved = machine.ledger.iter().any(|held| held.key == *key);
        assert!(is_reserved || machine.is_wiped, "{key} has a pod on {} and no reservation", process.node);
    }
}

/// What really is held, with what is promised and not allocated yet, leaves the floor. Memory that nobody could know of,
/// or that is later than the ledger waits for, is the agent's to refuse.
fn promises_are_covered(world: &World, node: &str, machine: &Machine) {
    if machine.ledger.iter().any(|held| held.terms.overridden && held.terms.bytes.0 > 0) || machine.is_wiped {
        return;
    }
    let mut sum = 0;
    let mut largest = 0;
    for held in &machine.ledger {
        let process = world.processes.get(&held.key).filter(|process| process.node == node);
        let (bytes, transient) = pair(held);
        match process.map(|process| process.stage) {
            Some(Stage::Serving) => sum += process.map_or(0, |process| process.holds),
            Some(Stage::Draining { held, .. }) => sum += held.min(bytes),
            None if held.state == State::Releasing => {
                let own = |returning: &&Returning| returning.key == held.key && returning.group.is_none();
                let own = machine.returning.iter().filter(own).filter(|returning| !returning.is_unknown);
                sum += own.map(|returning| returning.counted).sum::<u64>();
            }
            _ => sum += bytes,
        }
        if matches!(held.state, State::Pending | State::Loading) {
            largest = largest.max(transient);
        }
    }
    let is_waited_for = |returning: &&Returning| !returning.is_unknown && world.now < returning.dead_at + 120 * SECOND;
    // What is back but a fifth, counts as back.
    let mut late: Vec<(usize, u64)> = Vec::new();
    for returning in machine.returning.iter().filter(is_waited_for) {
        let Some(group) = returning.group else { continue };
        match late.iter_mut().find(|(other, _)| *other == group) {
            Some((_, bytes)) => *bytes += returning.counted,
            None => late.push((group, returning.counted)),
        }
    }
    let beyond: u64 = late.iter().map(|(group, bytes)| bytes.saturating_sub(world.groups[*group] / 5)).sum();
    let slack = 256 << 20;
    assert!(
        sum + largest + beyond + machine.baseline + machine.floor() <= machine.total + slack,
        "{node} has promised memory that is not back: {sum} + {largest} + {beyond} of {}; {:?}",
        machine.total,
        machine.returning
    );
}

/// What stays on a machine whatever a wish of that priority waits for.
fn staying<'w>(
    world: &'w World,
    machine: &'w Machine,
    key: &'w str,
    waiting: &'w Asked,
) -> impl Iterator<Item = (u64, u64)> + 'w {
    let stays = move |held: &&Reservation| {
        let leaves = world.asked.get(&held.key).is_none_or(|asked| {
            asked.mode == Mode::Suspended
                || (matches!(asked.mode, Mode::OnDemand { .. }) && asked.priority <= waiting.priority)
        });
        held.key != key && held.state != State::Releasing && !leaves
    };
    machine.ledger.iter().filter(stays).map(pair)
}

fn fits_with(machine: &Machine, mut others: Vec<(u64, u64)>, asked: &Asked) -> bool {
    others.push((asked.needs(), asked.transient));
    fits(machine, &others)
}

/// Those that wait and could have memory if everything left that may leave for them: in the order of the queue.
pub fn could_have(world: &World) -> Vec<String> {
    let mut waiting: Vec<(&String, &Asked)> = world
        .asked
        .iter()
        .filter(|(key, asked)| {
            let has_any = world.machines.values().flat_map(|machine| &machine.ledger).any(|held| held.key == **key);
            asked.is_wanted() && asked.facts_known && asked.not_before.is_none_or(|at| at <= world.now) && !has_any
        })
        .filter(|(key, asked)| {
            world.machines.iter().any(|(node, machine)| {
                let others: Vec<(u64, u64)> = staying(world, machine, key, asked).collect();
                let is_open = asked.nodes.contains(node) && asked.weights_on.contains(node);
                is_open && machine.is_healthy(world.now) && fits_with(machine, others, asked)
            })
        })
        .collect();
    let since = |asked: &Asked| asked.requested_since.unwrap_or(0).max(asked.wanted_since);
    waiting.sort_by_key(|(key, asked)| (std::cmp::Reverse(asked.priority), since(asked), (*key).clone()));
    waiting.into_iter().map(|(key, _)| key.clone()).collect()
}

/// How long the head of the queue may wait when nothing but users interferes: until it has aged, until the last that has
/// just come may leave, everything before it has loaded and drained, and memory was measured to be back.
pub fn longest_wait(world: &World) -> u64 {
    let loads: u64 = world.asked.values().map(|asked| asked.load_millis + 30 * SECOND).sum();
    let stays = world.asked.values().map(|asked| asked.min_resident.max(3 * asked.load_millis)).max().unwrap_or(0);
    (30 + 15 + 120 + 120) * SECOND + loads + stays
}
