//! Two nodes: each gets what it has room for, and one is lost with all that is on it.
#![allow(clippy::print_stdout, reason = "what a story sees is printed")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kindling_e2e::{Machine, Patience, Simulated, Stage, story, until};
use serde_json::Value;

const MIB: u64 = 1 << 20;
/// Each has room for one of the models below, and not for two.
const MACHINE: Machine = Machine { total: 1024 * MIB, baseline: 64 * MIB, slow_return: Duration::from_secs(3) };
const LARGE: u32 = 14_000;
const SYSTEM: &str = "kindling-system";
/// Kubernetes itself waits up to a minute before it calls a node lost, and two more before it removes its pods.
const NODE_LOSS: Patience = Patience(Duration::from_secs(300));

#[test]
fn copies_share_the_requests_and_none_is_lost_while_one_goes_or_all_are_changed() {
    story("copies", |stage| {
        let [_, second] = stage.cluster.nodes() else {
            println!("SKIPPED: story copies: the cluster has not two nodes (`cargo xtask cluster up --nodes 2 …`)");
            return;
        };
        let _simulated = Simulated::start(stage, MACHINE, &[]);
        stage.apply_with_cache("many", 4096, "  replicas: 3\n");
        until("two copies serve", Patience::PODS, || (ready_copies(stage) == 2).then_some(()));
        let many = stage.get("localmodel", "many").expect("the model");
        println!("{}: {}", many["status"]["node"], stage.condition("many", "Ready").expect("it is there").2);
        assert!(
            many["status"]["node"].as_str().is_some_and(|nodes| nodes.contains(second.name.as_deref().unwrap_or("?")))
        );
        assert_eq!(stage.condition("many", "MemoryAdmitted").expect("it is there").1, "OneCopyPerNode");
        scale(stage, 2);

        let asked = asking(stage, || {
            std::thread::sleep(Duration::from_secs(5));
            // Each in its turn: what it was asked goes to the other.
            for pod in ["many-0", "many-1"] {
                let uid = || stage.get("pod", pod)?["metadata"]["uid"].as_str().map(str::to_owned);
                let before = uid();
                stage.kubectl().read(&["delete", "pod", pod, "-n", &stage.namespace, "--wait=false"]);
                until(&format!("{pod} is another one and serves"), NODE_LOSS, || {
                    (uid()? != before.clone()? && ready_copies(stage) == 2).then_some(())
                });
            }
        });
        println!("each copy was deleted once: {asked} requests, all answered");
        let change = r#"{"spec":{"serving":{"contextLength":1024}}}"#;
        let asked = asking(stage, || {
            stage.kubectl().read(&["patch", "lm", "many", "-n", &stage.namespace, "--type=merge", "-p", change]);
            until("both copies are served as they are asked to be now", NODE_LOSS, || {
                let pods = stage.list("pods");
                let is_changed = |pod: &Value| pod.to_string().contains("\"--context-length\",\"1024\"");
                (pods.len() == 2 && pods.iter().all(is_changed) && ready_copies(stage) == 2).then_some(())
            });
        });
        println!("both copies were changed: {asked} requests, all answered");
        scale(stage, 1);
        until("one pod is left", Patience::PODS, || (stage.list("pods").len() == 1).then_some(()));
        assert_eq!(stage.gateway().ask(&format!("{}/many", stage.namespace), "Hi").status, 200);
    });
}

fn scale(stage: &Stage, replicas: u32) {
    let replicas = format!("--replicas={replicas}");
    stage.kubectl().read(&["scale", "lm/many", "-n", &stage.namespace, &replicas]);
}

fn ready_copies(stage: &Stage) -> u64 {
    let many = stage.get("localmodel", "many");
    many.and_then(|many| many["status"]["readyReplicas"].as_u64()).unwrap_or(0)
}

/// Asks different questions all the time while something happens; every one must be answered. The answer is how many.
fn asking(stage: &Stage, meanwhile: impl FnOnce()) -> usize {
    const USERS: usize = 4;
    let (gateway, name) = (stage.gateway(), format!("{}/many", stage.namespace));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let user = |user: usize| {
            let (gateway, name, is_over) = (&gateway, &name, &is_over);
            move || {
                let mut asked = 0;
                while !is_over.load(Ordering::Relaxed) {
                    let answer = gateway.ask(name, &format!("Question {asked} of user {user}"));
                    assert_eq!(answer.status, 200, "{}", answer.body);
                    asked += 1;
                }
                asked
            }
        };
        let users: Vec<_> = (0..USERS).map(|number| scope.spawn(user(number))).collect();
        let happened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(meanwhile));
        is_over.store(true, Ordering::Relaxed);
        let asked = users.into_iter().map(|user| user.join().expect("every request should be answered")).sum();
        happened.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        asked
    })
}

#[test]
fn models_spread_over_nodes_and_a_lost_node_takes_its_promises_along() {
    story("nodes", |stage| {
        let [_, second] = stage.cluster.nodes() else {
            println!("SKIPPED: story nodes: the cluster has not two nodes (`cargo xtask cluster up --nodes 2 …`)");
            return;
        };
        let second_name = second.name.clone().expect("the second node's name");
        keep_control_from(stage, &second_name);
        let _simulated = Simulated::start(stage, MACHINE, &[]);

        for model in ["a", "b"] {
            stage.apply_with_cache(model, LARGE, "");
            stage.wait_ready(model);
        }
        let node_of = |model: &str| {
            let model = stage.get("localmodel", model)?;
            model["status"]["node"].as_str().map(str::to_owned)
        };
        let (there, here) = if node_of("a").as_deref() == Some(&second_name) { ("a", "b") } else { ("b", "a") };
        println!("{}", stage.kubectl().read(&["get", "lm,ne,pv", "-A"]));
        assert_eq!(node_of(there).as_deref(), Some(second_name.as_str()));
        assert_ne!(node_of(here), node_of(there), "each on its own node");
        stage.apply_with_cache("c", LARGE, "");
        reason(stage, "c", "WaitingForMemory", Patience::PODS);

        second.end();
        reason(stage, there, "NodeLost", NODE_LOSS);
        let (gateway, name) = (stage.gateway(), format!("{}/{here}", stage.namespace));
        assert_eq!(gateway.ask(&name, "Hi").status, 200, "the other node goes on");
        reason(stage, "c", "WaitingForMemory", Patience::PODS);

        stage.kubectl().read(&["delete", "node", &second_name]);
        until("its ledger is gone", NODE_LOSS, || {
            stage.kubectl().get(&["nodeenvelope", &second_name]).is_none().then_some(())
        });
        reason(stage, there, "WaitingForMemory", NODE_LOSS);
        // Who has waited longest comes first, and that is not the one that had memory until just now.
        stage.kubectl().read(&["delete", "lm", here, "-n", &stage.namespace]);
        until("c is Ready", NODE_LOSS, || stage.condition("c", "Ready").filter(|(status, ..)| status == "True"));
        reason(stage, there, "WaitingForMemory", Patience::PODS);
        stage.kubectl().read(&["delete", "lm", "c", "-n", &stage.namespace]);
        until(&format!("{there} is Ready on the other node"), NODE_LOSS, || {
            let (status, ..) = stage.condition(there, "Ready")?;
            (status == "True" && node_of(there)? != second_name).then_some(())
        });
    });
}

/// The node that will be lost has only what must be on every node.
fn keep_control_from(stage: &Stage, node: &str) {
    stage.kubectl().read(&["cordon", node]);
    for component in ["operator", "gateway"] {
        let selector = format!("app.kubernetes.io/component={component}");
        stage.kubectl().read(&["delete", "pods", "-n", SYSTEM, "-l", &selector]);
        let deployment = format!("deployment/kindling-{component}");
        stage.kubectl().read(&["rollout", "status", "-n", SYSTEM, &deployment, "--timeout=120s"]);
    }
    stage.kubectl().read(&["uncordon", node]);
}

fn reason(stage: &Stage, model: &str, reason: &str, patience: Patience) {
    let (_, _, message) = until(&format!("{model} is {reason}"), patience, || {
        stage.condition(model, "Ready").filter(|(_, found, _)| found == reason)
    });
    println!("{model}: {reason}: {message}");
}
