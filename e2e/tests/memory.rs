//! A model starts only if it fits: on a machine of 1 GiB, as the agents are told.
#![allow(clippy::print_stdout, reason = "what a story sees is printed")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kindling_e2e::{Machine, Patience, Simulated, Simulator, Stage, story, until};
use serde_json::Value;

const MIB: u64 = 1 << 20;
/// The machine: room for one of the models below, and not for two.
const TOTAL: u64 = 1024 * MIB;
/// Memory of a runtime that ended stays in use for a while.
const SLOW_RETURN: Duration = Duration::from_secs(5);
const MACHINE: Machine = Machine { total: TOTAL, baseline: 64 * MIB, slow_return: SLOW_RETURN };

/// About 500 MiB: one fits, two do not.
const LARGE: u32 = 14_000;
const ON_DEMAND: &str = "  lifecycle: {activation: OnDemand, keepAlive: '-1s', minResident: 3s}\n";

fn wait_reason(stage: &Stage, model: &str, reason: &str) -> String {
    let (_, _, message) = until(&format!("{model} is {reason}"), Patience::PODS, || {
        stage.condition(model, "Ready").filter(|(_, found, _)| found == reason)
    });
    println!("{model}: {reason}: {message}");
    message
}

#[test]
fn a_model_starts_only_if_it_fits_and_the_machine_never_goes_down() {
    story("memory", |stage| {
        let simulated = Simulated::start(stage, MACHINE, &[]);

        // Fits on no node: refused as soon as that is known, with what would fit.
        let said = stage.apply_with_cache("huge", 100_000, "");
        assert!(said.contains("Warning: ") && said.contains("not known yet"), "{said}");
        let message = wait_reason(stage, "huge", "DoesNotFit");
        assert!(message.contains("fits on no node") && message.contains("would fit with"), "{message}");
        let model = stage.get("localmodel", "huge").expect("the model");
        assert!(model["status"]["envelope"]["predicted"]["kvCacheBytes"].as_u64() >= Some(100_000 * 23_040), "{model}");

        // What it takes is known from now on: refused at once.
        let said = stage.try_apply_with_cache("huger", 100_001, "").expect_err("it fits nowhere");
        println!("{said}");
        assert!(said.contains("fits on no node") && said.contains("would fit with"), "{said}");
        assert_eq!(stage.get("localmodel", "huger"), None);

        // Fits, but not now: waits, says for whom, and starts by itself when there is room.
        stage.apply_with_cache("first", LARGE, "");
        stage.wait_ready("first");
        let said = stage.try_apply_with_cache("first", 100_000, "").expect_err("it would fit nowhere");
        assert!(said.contains("fits on no node"), "{said}");
        let said = stage.apply_with_cache("second", LARGE, "");
        assert!(said.contains("Warning: it has to wait: "), "{said}");
        let message = wait_reason(stage, "second", "WaitingForMemory");
        assert!(message.contains(&format!("{}/first", stage.namespace)), "{message}");
        println!("{}", stage.kubectl().read(&["get", "lm,ne", "-n", &stage.namespace]));
        stage.kubectl().read(&["delete", "lm", "huge", "first", "-n", &stage.namespace]);
        stage.wait_ready("second");
        stage.kubectl().read(&["delete", "lm", "second", "-n", &stage.namespace]);

        swap(stage);
        leak(stage, &simulated.machines[0]);

        let floor = TOTAL / 12;
        let lowest = simulated.machines[0].lowest_available();
        println!("the least that was available: {} MiB of {} MiB", lowest / MIB, TOTAL / MIB);
        assert!(lowest < TOTAL - 200 * MIB, "the simulation should have seen the models");
        // The leak alone takes it below the floor, and is taken back at once.
        assert!(lowest > floor / 4, "{lowest}");
    });
}

/// Two models that do not fit together, each loaded by requests, which wait and are all answered.
fn swap(stage: &Stage) {
    for model in ["left", "right"] {
        stage.apply_with_cache(model, LARGE, ON_DEMAND);
        wait_reason(stage, model, "Idle");
    }
    let gateway = stage.gateway();
    let name = |model: &str| format!("{}/{model}", stage.namespace);
    until("the gateway knows both", Patience::CONTROL_PLANE, || {
        let ids = gateway.models();
        let knows = |model: &str| ids.iter().any(|id| *id == name(model) || id == model);
        (knows("left") && knows("right")).then_some(())
    });
    until("nobody holds memory", Patience::PODS, || ledger(stage).is_empty().then_some(()));
    let is_over = AtomicBool::new(false);
    let (answers, waits) = std::thread::scope(|scope| {
        let watch = scope.spawn(|| waits_for_memory(stage, &is_over));
        let ask = |model: &'static str| {
            let (gateway, name) = (gateway.clone(), name(model));
            let ask = move || {
                let answer = gateway.ask(&name, "Hi");
                if answer.status != 200 {
                    println!("{name}: {} {}", answer.status, answer.body);
                }
                answer.status
            };
            scope.spawn(move || [(); 3].map(|()| ask()))
        };
        let users = ["left", "right", "left"].map(ask);
        let answers: Vec<_> = users.map(|user| user.join().expect("a user")).into_iter().flatten().collect();
        is_over.store(true, Ordering::Relaxed);
        (answers, watch.join().expect("the watch"))
    });
    assert_eq!(answers, [200; 9], "no request is lost");
    let swapped =
        stage.kubectl().read(&["logs", "-n", "kindling-system", "deployment/kindling-operator", "--tail=400"]);
    let releases: Vec<&str> = swapped.lines().filter(|line| line.contains("Release(For")).collect();
    println!("{} swap(s) for 9 requests of 3 users", releases.len());
    assert!((1..=6).contains(&releases.len()), "{releases:#?}");
    println!("from the last of one's pod to the next one's reservation: {waits:.1?}");
    assert!(!waits.is_empty(), "no swap was seen");
    // The memory of a process that ended comes back after SLOW_RETURN, and pods end a moment after their processes.
    assert!(
        waits.iter().all(|wait| *wait >= SLOW_RETURN / 2),
        "{waits:?}: the next one came before the memory was back"
    );
    stage.kubectl().read(&["delete", "lm", "left", "right", "-n", &stage.namespace]);
}

fn ledger(stage: &Stage) -> Vec<Value> {
    let envelopes = stage.kubectl().get(&["nodeenvelopes"]).expect("the NodeEnvelopes");
    envelopes["items"][0]["spec"]["reservations"].as_array().cloned().unwrap_or_default()
}

/// Of each swap: how long after the pod of one was last there the ledger promised memory to the next. By what Kubernetes
/// shows of pods, not by what the ledger says of them.
fn waits_for_memory(stage: &Stage, is_over: &AtomicBool) -> Vec<Duration> {
    let (mut waits, mut last_there, mut before) = (Vec::new(), BTreeMap::<String, Instant>::new(), Vec::new());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    while !is_over.load(Ordering::Relaxed) {
        for pod in stage.list("pods") {
            last_there.insert(text(&pod["metadata"]["labels"]["kindling.dev/model"]), Instant::now());
        }
        let comes = |held: &&Value| held["state"] == "Pending" || held["state"] == "Loading";
        let coming: Vec<String> = ledger(stage).iter().filter(comes).map(|held| text(&held["model"])).collect();
        for model in coming.iter().filter(|model| !before.contains(*model)) {
            let others = last_there.iter().filter(|(other, _)| !model.ends_with(&format!("/{other}")));
            waits.extend(others.map(|(_, there)| there.elapsed()).min());
        }
        before = coming;
        std::thread::sleep(Duration::from_millis(100));
    }
    waits
}

/// Somebody else takes memory: the lowest priority gives its back, and comes again when there is enough.
fn leak(stage: &Stage, machine: &Simulator) {
    const SMALL: u32 = 4096;
    stage.apply_with_cache("kept", SMALL, "  memory: {priority: 10}\n");
    stage.apply_with_cache("given", SMALL, "");
    stage.wait_ready("kept");
    stage.wait_ready("given");
    let restarts = |model: &str| {
        let pod = stage.get("pod", &format!("{model}-0"))?;
        pod["status"]["containerStatuses"][0]["restartCount"].as_u64()
    };
    machine.leak(430 * MIB);
    until("the lower priority gave its memory back", Patience::PODS, || (restarts("given")? >= 1).then_some(()));
    println!("{}", stage.kubectl().read(&["get", "lm,ne", "-n", &stage.namespace]));
    let (status, ..) = stage.condition("kept", "Ready").unwrap_or_default();
    assert_eq!((status.as_str(), restarts("kept")), ("True", Some(0)), "the higher priority stays");
    machine.leak(0);
    stage.wait_ready("given");
    assert_eq!(restarts("kept"), Some(0));
}
