use serde_json::{Value, json};

use super::*;

fn read(status: Value) -> Situation {
    let pod: Pod = serde_json::from_value(json!({ "metadata": { "name": "smollm2-0" }, "status": status })).unwrap();
    situation(&pod)
}

fn runtime(state: Value) -> Situation {
    let mut container = json!({ "name": "runtime", "image": "i", "imageID": "", "ready": false, "restartCount": 0 });
    container.as_object_mut().unwrap().extend(state.as_object().unwrap().clone());
    read(json!({ "containerStatuses": [container] }))
}

#[test]
fn pod_without_status_is_pending() {
    assert_eq!(read(json!({})), Situation::Pending);
    assert_eq!(runtime(json!({ "state": { "waiting": { "reason": "ContainerCreating" } } })), Situation::Pending);
}

#[test]
fn pod_that_ended_for_good_says_why() {
    let message = "OutOfmemory: Node didn't have enough resource".to_owned();
    let status = json!({ "phase": "Failed", "reason": "OutOfmemory", "message": "Node didn't have enough resource" });
    assert_eq!(read(status), Situation::Ended { message });
}

#[test]
fn scheduler_says_why_no_node_takes_it() {
    let condition = json!({
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available",
    });
    let message = "0/1 nodes are available".to_owned();
    assert_eq!(read(json!({ "conditions": [condition] })), Situation::Unschedulable { message });
}

#[test]
fn image_that_can_not_be_pulled_is_told_with_the_container() {
    let waiting = json!({ "state": { "waiting": { "reason": "ErrImagePull", "message": "not found" } } });
    let message = "container runtime: ErrImagePull: not found".to_owned();
    assert_eq!(runtime(waiting), Situation::ImagePull { message });
}

#[test]
fn container_that_can_not_be_made_is_told() {
    let waiting = json!({ "state": { "waiting": { "reason": "CreateContainerError", "message": "subPath" } } });
    let message = "container runtime: CreateContainerError: subPath".to_owned();
    assert_eq!(runtime(waiting), Situation::ConfigInvalid { message });
}

#[test]
fn running_runtime_is_started_and_ready_as_the_kubelet_says() {
    let running = |ready: bool| json!({ "state": { "running": {} }, "ready": ready });
    assert_eq!(runtime(running(false)), Situation::Started { is_ready: false });
    assert_eq!(runtime(running(true)), Situation::Started { is_ready: true });
}

#[test]
fn pod_of_a_lost_node_is_not_ready_whatever_its_container_says() {
    let container = json!({
        "name": "runtime", "image": "i", "imageID": "", "ready": true, "restartCount": 0, "state": { "running": {} },
    });
    let status = |ready: &str| {
        let conditions = json!([{ "type": "Ready", "status": ready }]);
        json!({ "containerStatuses": [container], "conditions": conditions })
    };
    assert_eq!(read(status("True")), Situation::Started { is_ready: true });
    assert_eq!(read(status("False")), Situation::Started { is_ready: false });
}

#[test]
fn crashed_runtime_without_words_shows_its_exit_code() {
    let crashed = json!({
        "restartCount": 3,
        "state": { "waiting": { "reason": "CrashLoopBackOff" } },
        "lastState": { "terminated": { "exitCode": 137, "reason": "OOMKilled" } },
    });
    let message = "OOMKilled (exit code 137)".to_owned();
    assert_eq!(runtime(crashed), Situation::Crashed { message, restarts: 3 });
}

#[test]
fn endpoint_is_the_address_of_the_service_and_headless_ones_have_none() {
    let service = |ip: &str| serde_json::from_value::<Service>(json!({ "spec": { "clusterIP": ip } })).unwrap();
    assert_eq!(endpoint(&service("10.96.0.7")).as_deref(), Some("10.96.0.7:50051"));
    assert_eq!(endpoint(&service("fd00::7")).as_deref(), Some("[fd00::7]:50051"));
    assert_eq!(endpoint(&service("None")), None);
}
