use serde_json::{Value, json};

use super::*;

fn read(status: Value) -> Situation {
    let pod: Pod = serde_json::from_value(json!({ "metadata": { "name": "smollm2-0" }, "status": status })).unwrap();
    situation(&pod)
}

fn fetch_and_runtime(fetch: Value, runtime: Value) -> Situation {
    let container = |name: &str, state: Value| {
        let mut container = json!({ "name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 0 });
        container.as_object_mut().unwrap().extend(state.as_object().unwrap().clone());
        container
    };
    read(json!({
        "initContainerStatuses": [container("fetch", fetch)],
        "containerStatuses": [container("runtime", runtime)],
    }))
}

fn initializing() -> Value {
    json!({ "state": { "waiting": { "reason": "PodInitializing" } } })
}

fn done() -> Value {
    json!({ "state": { "terminated": { "exitCode": 0, "reason": "Completed" } } })
}

#[test]
fn pod_without_status_is_pending() {
    assert_eq!(read(json!({})), Situation::Pending);
    assert_eq!(fetch_and_runtime(initializing(), initializing()), Situation::Pending);
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
fn running_fetch_is_fetching() {
    let fetch = json!({ "state": { "running": {} } });
    assert_eq!(fetch_and_runtime(fetch, initializing()), Situation::Fetching { last_failure: None });
}

#[test]
fn fetch_that_runs_again_keeps_the_words_of_its_last_end() {
    let ended = json!({ "terminated": { "exitCode": 1, "message": "cannot reach the hub" } });
    let fetch = json!({ "state": { "running": {} }, "lastState": ended });
    let last_failure = Some("cannot reach the hub".to_owned());
    assert_eq!(fetch_and_runtime(fetch, initializing()), Situation::Fetching { last_failure });
}

#[test]
fn failed_fetch_keeps_its_words_while_the_kubelet_backs_off() {
    let fetch = json!({
        "state": { "waiting": { "reason": "CrashLoopBackOff" } },
        "lastState": { "terminated": { "exitCode": 1, "reason": "Error", "message": "no such repository\n" } },
    });
    let message = "no such repository".to_owned();
    assert_eq!(fetch_and_runtime(fetch, initializing()), Situation::FetchFailed { message });
}

#[test]
fn image_that_can_not_be_pulled_is_told_with_the_container() {
    let fetch = json!({ "state": { "waiting": { "reason": "ErrImagePull", "message": "not found" } } });
    let message = "container fetch: ErrImagePull: not found".to_owned();
    assert_eq!(fetch_and_runtime(fetch, initializing()), Situation::ImagePull { message });
}

#[test]
fn container_that_can_not_be_made_is_told() {
    let runtime = json!({ "state": { "waiting": { "reason": "CreateContainerError", "message": "subPath" } } });
    let message = "container runtime: CreateContainerError: subPath".to_owned();
    assert_eq!(fetch_and_runtime(done(), runtime), Situation::ConfigInvalid { message });
}

#[test]
fn running_runtime_is_started_and_ready_as_the_kubelet_says() {
    let runtime = |ready: bool| json!({ "state": { "running": {} }, "ready": ready });
    assert_eq!(fetch_and_runtime(done(), runtime(false)), Situation::Started { is_ready: false });
    assert_eq!(fetch_and_runtime(done(), runtime(true)), Situation::Started { is_ready: true });
}

#[test]
fn crashed_runtime_without_words_shows_its_exit_code() {
    let runtime = json!({
        "restartCount": 3,
        "state": { "waiting": { "reason": "CrashLoopBackOff" } },
        "lastState": { "terminated": { "exitCode": 137, "reason": "OOMKilled" } },
    });
    let message = "OOMKilled (exit code 137)".to_owned();
    assert_eq!(fetch_and_runtime(done(), runtime), Situation::Crashed { message, restarts: 3 });
}

#[test]
fn endpoint_is_the_address_of_the_service_and_headless_ones_have_none() {
    let service = |ip: &str| serde_json::from_value::<Service>(json!({ "spec": { "clusterIP": ip } })).unwrap();
    assert_eq!(endpoint(&service("10.96.0.7")).as_deref(), Some("10.96.0.7:50051"));
    assert_eq!(endpoint(&service("fd00::7")).as_deref(), Some("[fd00::7]:50051"));
    assert_eq!(endpoint(&service("None")), None);
}
