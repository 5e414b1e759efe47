//! The kubelets: run the pods that the scheduler binds to the played nodes, and say how they are.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::api::{Api, is_too_late, now_in_seconds};
use crate::machine::{Machine, Stage, TOKEN_BYTES, Terms, Told, World};
use crate::record::{Kind, Record};

const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What is to be written.
enum Deed {
    Status(String, Value),
    Finalise(String, String),
}

/// Plays them for ever.
pub async fn play(api: Api, record: Record, world: World) {
    loop {
        let deeds = look(&record, &world);
        let write = async |deed| match deed {
            Deed::Status(path, status) => api.merge(&format!("{path}/status"), &status).await,
            Deed::Finalise(path, uid) => api.finalise(&path, &uid).await,
        };
        for written in futures::future::join_all(deeds.into_iter().map(write)).await {
            if let Err(error) = written
                && !is_too_late(&error)
            {
                println!("a kubelet writes in vain: {error}");
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn look(record: &Record, world: &World) -> Vec<Deed> {
    let pods = record.live(Kind::Pod);
    let mut played = world.lock();
    let mut deeds = Vec::new();
    let mut complaints = Vec::new();
    let mut loads = 0;
    let mut waited = 0;
    for (node, machine) in &mut played.machines {
        machine.let_return();
        let here: Vec<&Arc<Value>> = pods.iter().filter(|pod| pod["spec"]["nodeName"] == node.as_str()).collect();
        let is_there = |uid: &str| here.iter().any(|pod| pod["metadata"]["uid"] == uid);
        let lost: Vec<String> = machine.processes.keys().filter(|uid| !is_there(uid)).cloned().collect();
        for uid in lost {
            // Somebody removed the pod by force: the process is ended all the same.
            let held = machine.processes[&uid].allocated();
            machine.end(&uid, held);
        }
        for pod in here {
            let was_refused = refused(machine, pod);
            let (told, complaint) = step(machine, pod);
            waited += u64::from(!was_refused && refused(machine, pod) && complaint.is_none());
            loads += u64::from(told == Told::Runs);
            complaints.extend(complaint.map(|text| format!("{node}: {text}")));
            deeds.extend(deed(machine, pod, &told));
        }
    }
    played.figures.loads += loads;
    played.figures.waited_for_room += waited;
    played.complaints.extend(complaints);
    deeds
}

fn refused(machine: &Machine, pod: &Value) -> bool {
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
    machine.processes.get(uid).is_some_and(|process| process.is_refused)
}

fn step(machine: &mut Machine, pod: &Value) -> (Told, Option<String>) {
    let metadata = &pod["metadata"];
    let uid = metadata["uid"].as_str().unwrap_or_default();
    let is_told_to_go = metadata["deletionTimestamp"].is_string();
    if !machine.processes.contains_key(uid) {
        if is_told_to_go {
            return (Told::Gone, None);
        }
        let model = text(&metadata["labels"]["kindling.dev/model"]);
        let model = format!("{}/{model}", text(&metadata["namespace"]));
        let written = text(&metadata["annotations"]["kindling.dev/memory-terms"]);
        let written: Value = serde_json::from_str(written).expect("terms");
        let terms = Terms { reserved: requested(pod), is_overridden: written["isOverridden"] == true };
        machine.begin(uid, (text(&metadata["name"]), &model), terms, weights_and_cache(pod));
        return (Told::Nothing, None);
    }
    machine.step(uid, is_told_to_go)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// What the pod asks Kubernetes for, in bytes; the API server writes thousands of them shorter.
pub fn requested(pod: &Value) -> u64 {
    let quantity = text(&pod["spec"]["containers"][0]["resources"]["requests"]["memory"]);
    let digits = quantity.trim_end_matches(['k', 'M', 'G']);
    let times = match &quantity[digits.len()..] {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        _ => 1_000_000_000,
    };
    digits.parse::<u64>().unwrap_or_else(|_| panic!("{quantity} are no bytes")) * times
}

/// What the model takes at most, by the name of its repository and the size of its cache.
fn weights_and_cache(pod: &Value) -> u64 {
    let args: Vec<&str> = pod["spec"]["containers"][0]["args"].as_array().into_iter().flatten().map(text).collect();
    let of = |flag: &str| args.iter().skip_while(|arg| **arg != flag).nth(1).copied().unwrap_or_default();
    let tokens: u64 = of("--kv-tokens").parse().expect("a number of tokens");
    crate::agent::weights(of("--model-path")) + tokens * TOKEN_BYTES
}

fn deed(machine: &Machine, pod: &Value, told: &Told) -> Option<Deed> {
    let metadata = &pod["metadata"];
    let (name, uid) = (text(&metadata["name"]), text(&metadata["uid"]));
    let path = format!("/api/v1/namespaces/{}/pods/{name}", text(&metadata["namespace"]));
    let restarts = machine.processes.get(uid).map_or(0, |process| process.restarts);
    match told {
        Told::Nothing => None,
        Told::Runs => Some(Deed::Status(path, status(uid, "Running", false, restarts))),
        Told::Ready => Some(Deed::Status(path, status(uid, "Running", true, restarts))),
        Told::Gone => Some(Deed::Finalise(path, uid.to_owned())),
    }
}

fn status(uid: &str, phase: &str, is_ready: bool, restarts: u64) -> Value {
    let now = now_in_seconds();
    let ready = if is_ready { "True" } else { "False" };
    let running = json!({ "running": { "startedAt": now } });
    let ended = json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled", "finishedAt": now } });
    let container = json!({
        "name": "runtime", "image": "played", "imageID": "", "ready": is_ready, "started": is_ready,
        "restartCount": restarts, "state": if phase == "Running" { running } else { ended },
    });
    json!({
        "metadata": { "uid": uid },
        "status": {
            "phase": phase,
            "conditions": [{ "type": "Ready", "status": ready, "lastTransitionTime": now }],
            "containerStatuses": [container],
        },
    })
}

/// A container ends by itself: for good, or to begin anew in its pod.
pub async fn crash(api: &Api, world: &World, pod: &Value, is_for_good: bool) {
    let metadata = &pod["metadata"];
    let (uid, node) = (text(&metadata["uid"]), text(&pod["spec"]["nodeName"]));
    let restarts = {
        let mut played = world.lock();
        let Some(machine) = played.machines.get_mut(node) else { return };
        let can = |stage| matches!(stage, Stage::Loading | Stage::Loaded | Stage::Serving);
        if !machine.processes.get(uid).is_some_and(|process| can(process.stage)) {
            return;
        }
        machine.crash(uid, is_for_good);
        let restarts = machine.processes[uid].restarts;
        played.figures.crashes += 1;
        restarts
    };
    let path = format!("/api/v1/namespaces/{}/pods/{}/status", text(&metadata["namespace"]), text(&metadata["name"]));
    let phase = if is_for_good { "Failed" } else { "Running" };
    if let Err(error) = api.merge(&path, &status(uid, phase, false, restarts)).await
        && !is_too_late(&error)
    {
        println!("a crash is not told: {error}");
    }
}
