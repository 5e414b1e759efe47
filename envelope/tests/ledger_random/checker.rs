//! The independent checker: its own sums of the world's raw numbers. It shares no arithmetic with the planner.
//!
//! # What it does not complain of, and why that is not the planner's doing
//! - Memory that is later than 120 s: a release ends then with a warning, and the agent refuses what is not there.
//! - Memory of pods whose ledger was emptied, or that died before anybody saw them: nothing that exists tells of it. And
//!   everything between somebody's emptying of a ledger and the next plan.
//! - A fifth of what left together (the rule of 80 %), and as many bytes as came back since the measurement against which a
//!   release counts and that no reservation waited for: no measurement tells them from its own.
//! - Of two containers of one pod, what the first still holds beyond the reservation that both have: the kubelet starts a
//!   container anew without asking. For the same reason a start may find its room taken while a container began anew.
//! - 256 MiB: agents publish no smaller change. What fits nowhere and was let in all the same is the agent's to judge.
//! - What loading takes, beside the largest of it: models load one after the other.
//!
//! # What it was shown to catch
//! Single lines of the planner were changed, one at a time; 1000 sets found each of these: reservations that leave or are
//! pending do not count; the baseline, what others take, or what loading takes does not; a release ends with its pod, after
//! 12 s, at 50 %, is judged alone, or while others still go; a rise that belongs to one that timed out counts for others;
//! yielded room is given away without a measurement, or by one that misses what comes; a container that began anew seen as
//! there; a pod made where its room is not; two that load; `Always`, a higher priority, one before its `minResident` or three
//! load times, or one in use unloaded for another; a change without a place to come back to; terms that follow what was
//! learned; a loading pod that is not found again; a node under pressure that takes models; claims ignored.
//! What 1000 sets let pass, the unit tests of the planner find: an aged head that is jumped, room made for one that another
//! takes, late memory hidden by what another does not use, measurements older than a pod's end, rises after a container began
//! anew or a ledger was lost, two changes at once, two places of one copy, a queue without priorities, a pod made before its
//! reservation is written.

use std::collections::BTreeMap;

use kindling_envelope::ledger::{Reservation, State};

use crate::world::{Asked, Machine, Mode, Returning, SECOND, Stage, World};

/// What a plan writes, by node.
type Ledgers = BTreeMap<String, Vec<Reservation>>;

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

/// Before the operator writes one ledger of all that its plan changes.
pub fn on_write(world: &mut World, node: &str, planned: &Ledgers) {
    let new = &planned[node];
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
                    may_leave(world, node, before, planned);
                }
            }
        }
    }
    remember_group(world, node, &ended);
    let machine = world.machines.get_mut(node).expect("a ledger has a node");
    let measured_at = machine.published.map_or(0, |(_, at)| at);
    for after in new.iter().filter(|after| after.state == State::Releasing) {
        machine.released_against.entry(after.key.clone()).or_insert(measured_at);
    }
    for after in new {
        if !old.iter().any(|before| before.key == after.key && before.made_at == after.made_at) {
            may_come(world, (node, new), after);
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

/// Of those that end together a fifth of the memory may still be on its way: that is the rule of 80 %. So may be as much
/// as came back meanwhile for which no reservation waited any more: nothing that can be measured tells it from theirs.
fn remember_group(world: &mut World, node: &str, ended: &[String]) {
    let group = world.groups.len();
    let machine = world.machines.get_mut(node).expect("a ledger has a node");
    for returning in machine.returning.iter_mut().filter(|returning| ended.contains(&returning.key)) {
        returning.group = returning.group.or(Some(group));
    }
    let held: u64 = ended.iter().filter_map(|key| machine.held_at_end.get(key)).sum();
    let since = ended.iter().filter_map(|key| machine.released_against.remove(key)).min().unwrap_or(u64::MAX);
    let unclaimed: u64 = machine.unclaimed.iter().filter(|(at, _)| *at >= since).map(|(_, bytes)| bytes).sum();
    world.groups.push(held / 5 + unclaimed);
}

/// Whoever leaves without reasons of its own leaves for another: then the rules of unloading hold.
fn may_leave(world: &mut World, node: &str, before: &Reservation, planned: &Ledgers) {
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
    if is_changed && comes_back(world, before, asked, planned) {
        return;
    }
    assert!(asked.mode != Mode::Always, "{} is Always and was unloaded", before.key);
    let Some(since) = process.and_then(|process| process.served_since) else {
        panic!("{} was unloaded before it served", before.key)
    };
    assert!(now >= since + asked.stays(), "{} was unloaded after {} ms, too early", before.key, now - since);
    let is_in_use = asked.requested_since.is_some() || asked.last_used.is_some_and(|used| now < used + 10 * SECOND);
    let mut waiting = world.asked.iter().filter(|(key, other)| {
        let has_aged = now >= waits_since(other) + 30 * SECOND;
        let is_first = other.is_wanted() && other.facts_known && other.priority >= asked.priority;
        is_first && (has_aged || !is_in_use) && !has_place(world, key)
    });
    let is_for_one = waiting.any(|(key, other)| {
        // Whoever leaves in the same plan for other reasons does not stay either.
        let fits = fits_with(&world.machines[node], staying(world, &planned[node], key, other).collect(), other);
        let is_open = other.nodes.contains(node) && other.weights_on.contains(node);
        is_open && !has_other_copy(&planned[node], key, other) && (fits || other.warns)
    });
    assert!(is_for_one, "{} was unloaded for nobody who could have its room; in use: {is_in_use}", before.key);
    world.figures.evictions += 1;
}

/// Whether what is to be served otherwise fits somewhere when itself and all who leave in the same plan are gone.
fn comes_back(world: &World, before: &Reservation, asked: &Asked, planned: &Ledgers) -> bool {
    world.machines.iter().any(|(name, machine)| {
        let mut others: Vec<(u64, u64)> = staying(world, &machine.ledger, &before.key, asked).collect();
        if let Some(new) = planned.get(name) {
            // Who leaves at the same time and does not come back, stays no longer.
            let comes_back = |held: &Reservation| world.asked.get(&held.key).is_some_and(Asked::is_wanted);
            let leaves = |held: &&Reservation| held.state == State::Releasing && !comes_back(held);
            let ends =
                |held: &&Reservation| !new.iter().any(|other| other.key == held.key && other.made_at == held.made_at);
            let ended = machine.ledger.iter().filter(ends);
            for leaving in new.iter().filter(leaves).chain(ended).map(pair) {
                others.iter().position(|other| *other == leaving).map(|index| others.swap_remove(index));
            }
        }
        let is_open = asked.nodes.contains(name) && machine.is_healthy(world.now);
        is_open && (fits_with(machine, others, asked) || asked.warns)
    })
}

fn has_place(world: &World, key: &str) -> bool {
    let mut all = world.machines.values().flat_map(|machine| &machine.ledger);
    all.any(|held| held.key == key && crate::operator::is_held_for_good(held.state))
}

/// A new reservation: found with a pod, or made where it may be.
fn may_come(world: &World, (node, ledger): (&str, &[Reservation]), after: &Reservation) {
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
    assert!(!has_other_copy(ledger, &after.key, asked), "{node} gets two copies of {}", asked.model);
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
    assert!(machine.is_healthy(world.now), "{node} takes nothing");
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
    let sum: u64 = machine.ledger.iter().map(|held| claimed(world, node, machine, held)).sum();
    let to_load = machine.ledger.iter().filter(|held| matches!(held.state, State::Pending | State::Loading));
    let largest = to_load.map(|held| held.terms.load_transient.0).max().unwrap_or(0);
    let given_up = given_up(world, machine);
    let kept = machine.baseline + machine.foreign + machine.floor();
    // Agents publish no smaller change.
    let slack = 256 << 20;
    assert!(
        sum + largest + given_up + kept <= machine.total + slack,
        "{node} has promised memory that is not back: {sum} + {largest} + {given_up} beside {kept} of {}; {:?}",
        machine.total,
        machine.returning
    );
}

/// What stands for a reservation: what its process holds, or has held and is not back, or will hold.
fn claimed(world: &World, node: &str, machine: &Machine, held: &Reservation) -> u64 {
    let bytes = held.terms.bytes.0;
    let own = |returning: &&Returning| returning.key == held.key && returning.group.is_none() && !returning.is_unknown;
    let coming_back: u64 = machine.returning.iter().filter(own).map(|returning| returning.counted).sum();
    let process = world.processes.get(&held.key).filter(|process| process.node == node);
    match process.map(|process| (process.stage, process)) {
        Some((Stage::Serving, process)) => process.holds,
        // What it takes beside it while it loads is shared by all, and the agent's to wait for.
        Some((Stage::Draining { held, .. }, _)) => held.min(bytes),
        // Whoever served before its container began anew, will hold what it held.
        Some((_, process)) if process.served_since.is_some() => process.holds,
        Some((Stage::Asking { .. } | Stage::Loading { .. }, _)) => bytes,
        None if held.state == State::Pending => bytes,
        None if bytes == 0 => coming_back,
        // Two containers of one pod, one after the other, were reserved for once.
        None => coming_back.min(bytes),
    }
}

/// What is not back though its reservation ended, beyond what the rules allow. Of two containers of one pod the last was
/// waited for: nothing says that another began before it was ready.
fn given_up(world: &World, machine: &Machine) -> u64 {
    let is_waited_for = |returning: &&Returning| {
        let is_late = world.now >= returning.dead_at + 120 * SECOND;
        !is_late && !returning.is_unknown && !returning.is_of_restart
    };
    let mut late: Vec<(usize, u64)> = Vec::new();
    for returning in machine.returning.iter().filter(is_waited_for) {
        let Some(group) = returning.group else { continue };
        match late.iter_mut().find(|(other, _)| *other == group) {
            Some((_, bytes)) => *bytes += returning.counted,
            None => late.push((group, returning.counted)),
        }
    }
    late.iter().map(|(group, bytes)| bytes.saturating_sub(world.groups[*group])).sum()
}

/// What stays on a machine whatever a wish of that priority waits for.
fn staying<'w>(
    world: &'w World,
    ledger: &'w [Reservation],
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
    ledger.iter().filter(stays).map(pair)
}

/// Whether another copy of the same model has a reservation in a ledger: then that node is not for this one.
fn has_other_copy(ledger: &[Reservation], key: &str, asked: &Asked) -> bool {
    ledger.iter().any(|held| held.model == asked.model && held.key != key)
}

fn fits_with(machine: &Machine, mut others: Vec<(u64, u64)>, asked: &Asked) -> bool {
    others.push((asked.needs(), asked.transient));
    fits(machine, &others)
}

fn waits_since(asked: &Asked) -> u64 {
    asked.requested_since.unwrap_or(0).max(asked.wanted_since)
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
                let others: Vec<(u64, u64)> = staying(world, &machine.ledger, key, asked).collect();
                let is_open = asked.nodes.contains(node) && asked.weights_on.contains(node);
                let is_open = is_open && !has_other_copy(&machine.ledger, key, asked);
                is_open && machine.is_healthy(world.now) && fits_with(machine, others, asked)
            })
        })
        .collect();
    waiting.sort_by_key(|(key, asked)| (std::cmp::Reverse(asked.priority), waits_since(asked), (*key).clone()));
    waiting.into_iter().map(|(key, _)| key.clone()).collect()
}

/// How long the head of the queue may wait when nothing but users interferes: until it has aged, until the last that has
/// just come may leave, everything before it has loaded and drained, and memory was measured to be back.
pub fn longest_wait(world: &World) -> u64 {
    let loads: u64 = world.asked.values().map(|asked| asked.load_millis + 30 * SECOND).sum();
    let stays = world.asked.values().map(|asked| asked.min_resident.max(3 * asked.load_millis)).max().unwrap_or(0);
    (30 + 15 + 120 + 120) * SECOND + loads + stays
}
