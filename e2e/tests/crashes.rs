//! Whoever dies, and in whatever state of the ledger: no memory is promised twice, none is lost, and the model serves.
#![allow(clippy::print_stdout, reason = "what a story sees is printed")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kindling_e2e::{Machine, Patience, Simulated, Stage, processes_of_pod, story, until};
use serde_json::Value;

const MIB: u64 = 1 << 20;
const TOTAL: u64 = 1024 * MIB;
const MACHINE: Machine = Machine { total: TOTAL, baseline: 64 * MIB, slow_return: Duration::from_secs(4) };
/// Of 1024 MiB 149.33 MiB are kept for the system: 64 MiB in use and a twelfth.
const FOR_MODELS: u64 = TOTAL - 64 * MIB - TOTAL / 12;
/// About 500 MiB: one fits, two do not.
const LARGE: u32 = 14_000;
/// The sample model loads in about four seconds then.
const SLOW_DISK: &str = "runtime.readBytesPerSecond=25000000";
const SYSTEM: &str = "kindling-system";

/// Who dies.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Operator,
    Agent,
    Gateway,
    Runtime,
}

#[test]
fn no_crash_in_any_state_of_the_ledger_loses_or_doubles_memory() {
    story("crashes", |stage| {
        let _simulated = Simulated::start(stage, MACHINE, &[SLOW_DISK]);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watch = scope.spawn(|| watch_ledger(stage, &is_over));
            for victim in [Victim::Operator, Victim::Agent, Victim::Gateway, Victim::Runtime] {
                live(stage, victim);
            }
            is_over.store(true, Ordering::Relaxed);
            let (num_looks, largest) = watch.join().expect("the watch");
            println!("{num_looks} looks at the ledger; at most {} MiB were promised", largest / MIB);
            assert!(num_looks > 50 && largest > 400 * MIB, "the watch should have seen the models");
        });
    });
}

/// A model's life, in each of whose states the victim dies once.
fn live(stage: &Stage, victim: Victim) {
    let model = format!("{victim:?}").to_lowercase();
    // No pod can be made: the reservation stays Pending.
    let quota = "apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: none}\nspec: {hard: {pods: '0'}}\n";
    stage.kubectl().apply(&stage.namespace, quota).expect("a quota");
    stage.apply_with_cache(&model, LARGE, "");
    die_in(stage, "Pending", victim, &model);
    stage.kubectl().read(&["delete", "resourcequota", "none", "-n", &stage.namespace]);

    die_in(stage, "Loading", victim, &model);
    stage.wait_ready(&model);
    let restarts = || restarts(stage, &model);
    let before = restarts();
    die_in(stage, "Resident", victim, &model);
    if matches!(victim, Victim::Runtime) {
        until("the runtime came again", Patience::PODS, || (restarts() > before).then_some(()));
    }
    let (gateway, name) = (stage.gateway(), format!("{}/{model}", stage.namespace));
    until("the gateway answers", Patience::PODS, || (gateway.ask(&name, "Hi").status == 200).then_some(()));
    stage.wait_ready(&model);
    if !matches!(victim, Victim::Runtime) {
        assert_eq!(restarts(), before, "a model goes on serving without {victim:?}");
    }

    stage.kubectl().read(&["delete", "lm", &model, "-n", &stage.namespace, "--wait=false"]);
    die_in(stage, "Releasing", victim, &model);
    until("the memory is nobody's", Patience::PODS, || ledger(stage).is_empty().then_some(()));
}

/// Kills it as soon as the model's reservation is in this state.
fn die_in(stage: &Stage, state: &str, victim: Victim, model: &str) {
    until(&format!("{model} is {state}"), Patience::PODS, || {
        ledger(stage).iter().any(|held| held["state"] == state).then_some(())
    });
    match victim {
        Victim::Operator => kill_pods(stage, "operator"),
        Victim::Agent => kill_pods(stage, "agent"),
        Victim::Gateway => kill_pods(stage, "gateway"),
        Victim::Runtime => kill_runtime(stage, state, model),
    }
}

/// At once, as when a node's kernel ends it; another is made in its place.
fn kill_pods(stage: &Stage, component: &str) {
    let selector = format!("app.kubernetes.io/component={component}");
    let now = ["--force", "--grace-period=0", "--wait=true"];
    stage.kubectl().read(&[&["delete", "pods", "-n", SYSTEM, "-l", &selector], &now[..]].concat());
}

/// There is one only while the model loads or serves.
fn kill_runtime(stage: &Stage, state: &str, model: &str) {
    if state == "Pending" || state == "Releasing" {
        return;
    }
    let runtime = until("the runtime's process is there", Patience::PODS, || {
        let pod = stage.get("pod", &format!("{model}-0"))?;
        let processes = processes_of_pod(pod["metadata"]["uid"].as_str()?);
        processes.into_iter().find(|process| process.command.contains("kindling runtime"))
    });
    runtime.kill();
}

fn restarts(stage: &Stage, model: &str) -> Option<u64> {
    let pod = stage.get("pod", &format!("{model}-0"))?;
    pod["status"]["containerStatuses"][0]["restartCount"].as_u64()
}

fn ledger(stage: &Stage) -> Vec<Value> {
    let envelopes = stage.kubectl().get(&["nodeenvelopes"]).unwrap_or_default();
    envelopes["items"][0]["spec"]["reservations"].as_array().cloned().unwrap_or_default()
}

/// Sums the ledger again and again: how often, and the largest sum.
fn watch_ledger(stage: &Stage, is_over: &AtomicBool) -> (usize, u64) {
    let (mut num_looks, mut largest) = (0, 0);
    while !is_over.load(Ordering::Relaxed) {
        let sum: u64 = ledger(stage).iter().filter_map(|held| held["bytes"].as_u64()).sum();
        assert!(sum <= FOR_MODELS, "{sum} bytes are promised, there are {FOR_MODELS}");
        (num_looks, largest) = (num_looks + 1, largest.max(sum));
        std::thread::sleep(Duration::from_millis(300));
    }
    (num_looks, largest)
}
