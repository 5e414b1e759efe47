//! What breaks is mended, and what did not break is left alone.
#![allow(clippy::print_stdout, reason = "what a story sees is printed")]

use kindling_e2e::{Patience, Stage, processes_of_pod, story, until};
use serde_json::Value;

const SYSTEM: &str = "kindling-system";
const OPERATOR: &str = "deployment/kindling-operator";

#[test]
fn a_killed_runtime_comes_back_and_the_gateway_answers_again() {
    story("killed", |stage| {
        stage.apply_sample();
        stage.wait_ready("smollm2");
        let gateway = stage.gateway();
        let name = format!("{}/smollm2", stage.namespace);
        until("the gateway answers", Patience::CONTROL_PLANE, || {
            (gateway.ask(&name, "Hi").status == 200).then_some(())
        });
        let processes = processes_of_pod(&uid(&stage.pod().expect("the pod")));
        let runtime = processes.iter().find(|process| process.command.contains("kindling runtime"));
        runtime.expect("the runtime's process should be on this machine").kill();
        until("the container was restarted", Patience::PODS, || {
            let restarts = stage.pod()?["status"]["containerStatuses"][0]["restartCount"].as_u64();
            (restarts >= Some(1)).then_some(())
        });
        until("the gateway answers again", Patience::PODS, || (gateway.ask(&name, "Hi").status == 200).then_some(()));
        stage.wait_ready("smollm2");
    });
}

#[test]
fn deleting_any_child_brings_it_back() {
    story("children", |stage| {
        stage.apply_sample();
        stage.wait_ready("smollm2");
        let model = format!("{}/smollm2", stage.namespace);
        until("the gateway answers", Patience::PODS, || {
            (stage.gateway().ask(&model, "Hi").status == 200).then_some(())
        });
        // Of what left before it was measured nobody knows when it is back: that takes two minutes.
        until("its memory was measured", Patience::PODS, || {
            let envelopes = stage.kubectl().get(&["nodeenvelopes"])?;
            let measured_at = envelopes["items"][0]["status"]["measuredAt"].as_str()?.to_owned();
            let model = stage.get("localmodel", "smollm2")?;
            let ready = model["status"]["conditions"].as_array()?.iter().find(|found| found["type"] == "Ready")?;
            (measured_at.as_str() > ready["lastTransitionTime"].as_str()?).then_some(())
        });
        let first = uid(&stage.pod().expect("the pod"));
        let pod_name = name(&stage.pod().expect("the pod"));
        stage.kubectl().read(&["delete", "pod", &pod_name, "-n", &stage.namespace, "--wait=false"]);
        until("another pod is there", Patience::PODS, || stage.pod().filter(|pod| uid(pod) != first));
        stage.wait_ready("smollm2");

        for kind in ["services", "serviceaccounts"] {
            let mut children =
                stage.list(kind).into_iter().filter(|object| object["metadata"]["ownerReferences"].is_array());
            let child = children.next_back().unwrap_or_else(|| panic!("a child of kind {kind}"));
            stage.kubectl().read(&["delete", kind, &name(&child), "-n", &stage.namespace]);
            until(&format!("the {kind} child is back"), Patience::CONTROL_PLANE, || {
                let again = stage.get(kind, &name(&child))?;
                (uid(&again) != uid(&child)).then_some(())
            });
        }
        stage.wait_ready("smollm2");
        until("the gateway answers", Patience::PODS, || {
            (stage.gateway().ask(&model, "Hi").status == 200).then_some(())
        });
    });
}

#[test]
fn an_operator_that_is_absent_while_a_model_loads_still_ends_with_a_ready_model() {
    story("absent", |stage| {
        let _operator = Restored(stage);
        // About 98 MB at 6 MB/s: the operator is away long before the load is over.
        stage.cluster.helm_install(&["runtime.readBytesPerSecond=6000000"]);
        stage.apply_sample();
        until("the pod is made", Patience::PODS, || stage.pod());
        scale_operator(stage, 0);
        let (status, ..) = stage.condition("smollm2", "Loaded").unwrap_or_default();
        assert_ne!(status, "True", "the operator should be gone before the model is loaded");
        until("the runtime is ready by itself", Patience::PODS, || is_pod_ready(&stage.pod()?).then_some(()));
        let (status, ..) = stage.condition("smollm2", "Ready").unwrap_or_default();
        assert_ne!(status, "True", "nobody was there to say so");
        assert!(!reasons(stage).contains(&"Serving".to_owned()), "{:?}", reasons(stage));
        scale_operator(stage, 1);
        stage.wait_ready("smollm2");
        until("an event tells it", Patience::CONTROL_PLANE, || {
            reasons(stage).contains(&"Serving".to_owned()).then_some(())
        });
        println!("events: {:?}", reasons(stage));
    });
}

#[test]
fn restarting_the_operator_changes_nothing() {
    story("restart", |stage| {
        stage.apply_sample();
        stage.wait_ready("smollm2");
        let before = (stage.pod(), stage.get("localmodel", "smollm2"), reasons(stage).len());
        let _operator = Restored(stage);
        scale_operator(stage, 0);
        scale_operator(stage, 1);
        until("the new operator holds the lease", Patience::CONTROL_PLANE, || {
            let lease = stage.kubectl().get(&["lease", "-n", SYSTEM, "kindling-operator"])?;
            let holder = lease["spec"]["holderIdentity"].as_str()?.to_owned();
            let pods = stage.kubectl().get(&["pods", "-n", SYSTEM, "-l", "app.kubernetes.io/component=operator"])?;
            (pods["items"][0]["metadata"]["name"] == holder.as_str()).then_some(())
        });
        // A new generation proves that the new operator has looked at this model.
        let patch = r#"{"spec":{"gateway":{"aliases":["another-name"]}}}"#;
        stage.kubectl().read(&["patch", "lm", "smollm2", "-n", &stage.namespace, "--type=merge", "-p", patch]);
        until("the new generation is observed", Patience::CONTROL_PLANE, || {
            let model = stage.get("localmodel", "smollm2")?;
            (model["status"]["observedGeneration"] == model["metadata"]["generation"]).then_some(())
        });
        let pod = stage.pod();
        assert_eq!(before.0.as_ref().map(uid), pod.as_ref().map(uid), "the pod is the same");
        let restarts = &pod.expect("the pod")["status"]["containerStatuses"][0]["restartCount"];
        assert_eq!(restarts, 0, "its container was not restarted");
        let transition = |model: &Option<Value>| {
            let conditions = model.as_ref().map(|model| model["status"]["conditions"].clone()).unwrap_or_default();
            let list = conditions.as_array().cloned().unwrap_or_default();
            list.iter().map(|condition| condition["lastTransitionTime"].to_string()).collect::<Vec<_>>()
        };
        assert_eq!(transition(&before.1), transition(&stage.get("localmodel", "smollm2")), "no condition moved");
        assert_eq!(before.2, reasons(stage).len(), "no new event");
    });
}

/// Brings the operator back as the release has it, also when the story fails: other stories need it.
struct Restored<'a>(&'a Stage);

impl Drop for Restored<'_> {
    fn drop(&mut self) {
        let scaled = self.0.kubectl().try_read(&["scale", OPERATOR, "-n", SYSTEM, "--replicas=1"]);
        let restored = scaled.and_then(|_| self.0.cluster.try_helm_install(&["runtime.readBytesPerSecond=null"]));
        if let Err(error) = restored {
            println!("the operator was not restored: {error}");
            assert!(std::thread::panicking(), "the operator was not restored: {error}");
        }
    }
}

fn scale_operator(stage: &Stage, replicas: u32) {
    let count = format!("--replicas={replicas}");
    stage.kubectl().read(&["scale", OPERATOR, "-n", SYSTEM, &count]);
    until(&format!("{replicas} operators"), Patience::PODS, || {
        let pods = stage.kubectl().get(&["pods", "-n", SYSTEM, "-l", "app.kubernetes.io/component=operator"])?;
        let pods = pods["items"].as_array()?;
        let ready = pods.iter().filter(|pod| is_pod_ready(pod)).count();
        (pods.len() == replicas as usize && ready == replicas as usize).then_some(())
    });
}

fn is_pod_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// Reasons of the events about the model.
fn reasons(stage: &Stage) -> Vec<String> {
    let about =
        |event: &Value| event["involvedObject"]["kind"] == "LocalModel" || event["regarding"]["kind"] == "LocalModel";
    let events = stage.list("events").into_iter().filter(about);
    events.map(|event| event["reason"].as_str().unwrap_or_default().to_owned()).collect()
}

fn uid(object: &Value) -> String {
    object["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}
