//! Two nodes: each gets what it has room for, and one is lost with all that is on it.
#![allow(clippy::print_stdout, reason = "what a story sees is printed")]

use std::time::Duration;

use kindling_e2e::{Machine, Patience, Simulated, Stage, story, until};

const MIB: u64 = 1 << 20;
/// Each has room for one of the models below, and not for two.
const MACHINE: Machine = Machine { total: 1024 * MIB, baseline: 64 * MIB, slow_return: Duration::from_secs(3) };
const LARGE: u32 = 14_000;
const SYSTEM: &str = "kindling-system";
/// Kubernetes itself waits up to a minute before it calls a node lost, and two more before it removes its pods.
const NODE_LOSS: Patience = Patience(Duration::from_secs(300));

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
