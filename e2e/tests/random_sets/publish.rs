//! What the agents publish: as they do, when memory changed, when somebody waits for it, and now and then.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::{Api, is_too_late, micros};
use crate::machine::{Machine, Stage, World};
use crate::node::beat;
use crate::record::{Kind, Record};

const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Agents wait for a second or ten between two; a set of models here lasts for seconds.
const AT_MOST_EVERY: Duration = Duration::from_millis(500);
const HEARTBEAT: Duration = Duration::from_secs(15);
const LEDGERS: &str = "/apis/kindling.dev/v1alpha1/nodeenvelopes";

/// What was published last.
struct Last {
    at: Instant,
    available: u64,
    pressure: &'static str,
    holders: Value,
    seen: BTreeSet<String>,
}

/// A reading of a machine.
struct Reading {
    at: Timestamp,
    available: u64,
    total: u64,
    baseline: u64,
    pressure: &'static str,
    holders: Value,
}

/// Publishes for a node, for ever.
pub async fn play(api: Api, record: Record, world: World, (node, address): (String, String)) {
    let mut last = None;
    let mut beaten = Instant::now();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if beaten.elapsed() >= HEARTBEAT {
            beaten = Instant::now();
            if let Err(error) = beat(&api, &node).await
                && !is_too_late(&error)
            {
                println!("{node}: its kubelet writes in vain: {error}");
            }
        }
        let ledger = record.find(Kind::Ledger, &node);
        // A replaced machine begins anew, and a ledger that is gone is made again at once.
        let last_there = last.as_ref().filter(|_| ledger.is_some());
        let Some(reading) = read(&world, &node) else { continue };
        let reservations = ledger.as_ref().map(|ledger| ledger["spec"]["reservations"].clone()).unwrap_or_default();
        let seen = seen(&reservations, reading.at);
        if !is_due(last_there, &reading, &reservations, &seen) {
            continue;
        }
        match write(&api, &node, &address, &reading).await {
            Ok(()) => {
                let Reading { available, pressure, holders, .. } = reading;
                last = Some(Last { at: Instant::now(), available, pressure, holders, seen });
            }
            Err(error) if is_too_late(&error) => {}
            Err(error) => println!("{node}: its agent writes in vain: {error}"),
        }
    }
}

fn read(world: &World, node: &str) -> Option<Reading> {
    let mut played = world.lock();
    let machine = played.machines.get_mut(node)?;
    machine.let_return();
    let now = Instant::now();
    if machine.silent_until.is_some_and(|until| until > now) {
        return None;
    }
    let is_pressed = machine.pressed_until.is_some_and(|until| until > now);
    Some(Reading {
        at: Timestamp::now(),
        available: machine.available(),
        total: machine.total,
        baseline: machine.baseline,
        pressure: if is_pressed { "Low" } else { "None" },
        holders: holders(machine),
    })
}

fn holders(machine: &Machine) -> Value {
    let with_grant = machine.processes.iter().filter(|(_, process)| process.allocated() > 0);
    let holders = with_grant.map(|(uid, process)| {
        let mut holder = json!({ "model": process.model, "podUid": uid, "grantedBytes": process.reserved });
        let is_loaded = matches!(process.stage, Stage::Loaded | Stage::Serving);
        if is_loaded && process.reports {
            let bytes = process.holds;
            holder["measured"] =
                json!({ "weightsBytes": bytes, "kvCacheBytes": 0, "activationsBytes": 0, "totalBytes": bytes });
        }
        holder
    });
    Value::Array(holders.collect())
}

/// How far the reservations are of which memory was read since.
fn seen(reservations: &Value, read_at: Timestamp) -> BTreeSet<String> {
    let all = reservations.as_array().into_iter().flatten();
    let is_read = |held: &&Value| {
        held["since"].as_str().and_then(|at| at.parse::<Timestamp>().ok()).is_some_and(|at| at < read_at)
    };
    all.filter(is_read).map(|held| format!("{} {} {}", held["uid"], held["copy"], held["state"])).collect()
}

fn is_due(last: Option<&Last>, reading: &Reading, reservations: &Value, seen: &BTreeSet<String>) -> bool {
    let Some(last) = last else { return true };
    if last.pressure != reading.pressure || last.holders != reading.holders {
        return true;
    }
    if last.at.elapsed() < AT_MOST_EVERY {
        return false;
    }
    let is_news = last.available.abs_diff(reading.available) >= (256 << 20_u64).min(reading.total / 100);
    let is_awaited = reservations.as_array().into_iter().flatten().any(|held| held["state"] == "Releasing");
    is_news || is_awaited || !seen.is_subset(&last.seen) || last.at.elapsed() >= HEARTBEAT
}

async fn write(api: &Api, node: &str, address: &str, reading: &Reading) -> Result<(), kube::Error> {
    let path = format!("{LEDGERS}/{node}/status");
    let status = status(node, address, reading);
    match api.apply(&path, "kindling-agent", &status).await {
        Err(kube::Error::Api(answer)) if answer.is_not_found() => {}
        other => return other.map(drop),
    }
    let head = json!({ "apiVersion": "kindling.dev/v1alpha1", "kind": "NodeEnvelope", "metadata": { "name": node }, "spec": {} });
    match api.create(LEDGERS, &head).await {
        Ok(_) => {}
        Err(kube::Error::Api(answer)) if answer.is_already_exists() => {}
        Err(error) => return Err(error),
    }
    api.apply(&path, "kindling-agent", &status).await.map(drop)
}

fn status(node: &str, address: &str, reading: &Reading) -> Value {
    let Reading { at, available, total, baseline, pressure, holders } = reading;
    let floor = (8 << 30_u64).min(total / 12);
    json!({
        "apiVersion": "kindling.dev/v1alpha1", "kind": "NodeEnvelope", "metadata": { "name": node },
        "status": {
            "measuredAt": micros(*at),
            "memory": {
                "totalBytes": total, "availableBytes": available, "freeBytes": available,
                "freeInLargeBlocksBytes": available, "baselineBytes": baseline, "swapTotalBytes": 0, "swapUsedBytes": 0,
                "floorStartBytes": floor / 4 * 5, "floorRunBytes": floor,
            },
            "pressure": pressure,
            "holders": holders,
            "agentAddress": address,
            "agentVersion": "played",
        },
    })
}
