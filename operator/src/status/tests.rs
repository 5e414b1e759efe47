//! The table: what is the case, and what the status says about it.

use kindling_proto::v1::get_model_info_response::State;
use serde_json::json;

use super::*;
use crate::dereference::DereferenceError;
use crate::validate::ValidateError;

fn model() -> LocalModel {
    serde_json::from_value(json!({
        "apiVersion": "kindling.dev/v1alpha1",
        "kind": "LocalModel",
        "metadata": { "name": "smollm2", "namespace": "models", "uid": "1", "generation": 2 },
        "spec": { "source": { "hf": { "repo": "org/name" } } },
    }))
    .unwrap()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn in_situation(situation: Situation, info: Option<GetModelInfoResponse>) -> Result<Observed, Error> {
    let pod_name = Some("smollm2-0".to_owned());
    Ok(Observed { situation, info, pod_name, endpoint: Some("10.96.0.7:50051".to_owned()), ..Observed::default() })
}

fn info(state: State) -> GetModelInfoResponse {
    GetModelInfoResponse {
        state: state.into(),
        loaded_bytes: 40 << 20,
        total_bytes: 100 << 20,
        architecture: "LlamaForCausalLM".to_owned(),
        parameters: 134_515_008,
        quantization: "Q4_1".to_owned(),
        weight_bytes: (98 << 20) + 1,
        max_model_len: 8192,
        device: "cpu".to_owned(),
        ..GetModelInfoResponse::default()
    }
}

/// `Resolved Downloaded Loaded Ready`, each as its status' first letter and its reason.
fn line(status: &LocalModelStatus) -> String {
    let words: Vec<_> =
        status.conditions.iter().map(|found| format!("{}:{}", &found.status[..1], found.reason)).collect();
    words.join(" ")
}

#[test]
fn every_situation_has_its_line() {
    let words = || "words".to_owned();
    let started = |is_ready| Situation::Started { is_ready };
    let table = [
        (Situation::ScaledToZero, None, "T:Accepted U:Waiting F:ScaledToZero F:ScaledToZero"),
        (Situation::Replacing, None, "T:Accepted U:Waiting F:ReplacingPod F:ReplacingPod"),
        (
            Situation::BackingOff { message: words(), until: at(9) },
            None,
            "T:Accepted U:Waiting F:RestartBackoff F:RestartBackoff",
        ),
        (Situation::Pending, None, "T:Accepted U:Waiting F:PodPending F:PodPending"),
        (Situation::Unschedulable { message: words() }, None, "T:Accepted U:Waiting F:Unschedulable F:Unschedulable"),
        (Situation::ImagePull { message: words() }, None, "T:Accepted U:Waiting F:ImagePullFailed F:ImagePullFailed"),
        (
            Situation::ConfigInvalid { message: words() },
            None,
            "T:Accepted U:Waiting F:ContainerConfigInvalid F:ContainerConfigInvalid",
        ),
        (Situation::Fetching { last_failure: None }, None, "T:Accepted F:Downloading F:Waiting F:Downloading"),
        (Situation::FetchFailed { message: words() }, None, "T:Accepted F:DownloadFailed F:Waiting F:DownloadFailed"),
        (Situation::Crashed { message: words(), restarts: 2 }, None, "T:Accepted T:Downloaded F:CrashLoop F:CrashLoop"),
        (started(false), None, "T:Accepted T:Downloaded F:Starting F:Starting"),
        (started(false), Some(State::Loading), "T:Accepted T:Downloaded F:Loading F:Loading"),
        (started(false), Some(State::Ready), "T:Accepted T:Downloaded T:Loaded F:AwaitingReadiness"),
        (started(false), Some(State::Draining), "T:Accepted T:Downloaded T:Loaded F:Draining"),
        (started(true), Some(State::Ready), "T:Accepted T:Downloaded T:Loaded T:Serving"),
        (started(true), None, "T:Accepted T:Downloaded T:Loaded T:Serving"),
    ];
    for (situation, state, expected) in table {
        let outcome = in_situation(situation.clone(), state.map(info));
        let status = compute(&model(), &outcome, at(1));
        assert_eq!(line(&status), expected, "{situation:?}");
        assert_eq!(status.observed_generation, Some(2), "{situation:?}");
    }
}

#[test]
fn loading_tells_how_far_it_is() {
    let outcome = in_situation(Situation::Started { is_ready: false }, Some(info(State::Loading)));
    let status = compute(&model(), &outcome, at(1));
    assert_eq!(status.condition(ConditionType::Loaded).unwrap().message, "40 of 100 MiB");
}

#[test]
fn facts_come_from_the_runtime() {
    let outcome = in_situation(Situation::Started { is_ready: true }, Some(info(State::Ready)));
    let status = compute(&model(), &outcome, at(1));
    assert_eq!(status.source.as_deref(), Some("org/name"));
    assert_eq!(status.model.unwrap().architecture, "LlamaForCausalLM");
    assert_eq!(status.acceleration.unwrap().device, "cpu");
    assert_eq!(status.memory.unwrap().weights.as_deref(), Some("99Mi"));
    assert_eq!(status.context_length, Some(8192));
    assert_eq!(status.endpoint.as_deref(), Some("10.96.0.7:50051"));
    assert_eq!(status.replicas, 1);
    assert_eq!(status.label_selector.as_deref(), Some("kindling.dev/model=smollm2"));
}

#[test]
fn facts_stay_while_the_runtime_is_not_asked_and_go_with_the_spec() {
    let ready = || in_situation(Situation::Started { is_ready: true }, None);
    let mut object = model();
    let loaded = in_situation(Situation::Started { is_ready: true }, Some(info(State::Ready)));
    object.status = Some(compute(&object, &loaded, at(1)));
    assert!(has_facts(&object));
    assert_eq!(Some(compute(&object, &ready(), at(2))), object.status, "nothing changed, so nothing is written");
    object.metadata.generation = Some(3);
    assert!(!has_facts(&object));
    assert_eq!(compute(&object, &ready(), at(2)).model, None);
}

#[test]
fn time_of_transition_stays_while_the_status_stays() {
    let mut object = model();
    object.status = Some(compute(&object, &in_situation(Situation::Pending, None), at(1)));
    let status = compute(&object, &in_situation(Situation::Fetching { last_failure: None }, None), at(2));
    assert_eq!(status.condition(ConditionType::Ready).unwrap().last_transition_time.0, at(1));
    assert_eq!(status.condition(ConditionType::Downloaded).unwrap().last_transition_time.0, at(2));
}

fn refused(is_serving: bool) -> Result<Observed, Error> {
    Err(Error::Validate { source: ValidateError::Device, is_serving })
}

#[test]
fn refused_change_of_a_serving_model_leaves_it_ready_until_its_pod_ends() {
    let mut object = model();
    let loaded = in_situation(Situation::Started { is_ready: true }, Some(info(State::Ready)));
    object.status = Some(compute(&object, &loaded, at(1)));
    object.metadata.generation = Some(3);
    object.status = Some(compute(&object, &refused(true), at(2)));
    let status = object.status.as_ref().unwrap();
    assert_eq!(line(status), "F:DeviceNotSupported T:Downloaded T:Loaded T:Serving");
    assert_eq!(status.condition(ConditionType::Ready).unwrap().last_transition_time.0, at(1));
    assert_eq!(status.endpoint.as_deref(), Some("10.96.0.7:50051"), "its traffic goes on");
    let ended = compute(&object, &refused(false), at(3));
    assert_eq!(ended.condition(ConditionType::Ready).unwrap().reason, "DeviceNotSupported");
}

#[test]
fn refused_spec_is_not_ready_and_says_what_to_do() {
    let status = compute(&model(), &refused(false), at(1));
    assert_eq!(line(&status), "F:DeviceNotSupported U:Waiting U:Waiting F:DeviceNotSupported");
    assert!(status.condition(ConditionType::Ready).unwrap().message.contains("use Auto or Cpu"));
    assert_eq!(status.observed_generation, Some(2));
}

#[test]
fn unreachable_cluster_leaves_a_serving_model_ready() {
    let mut object = model();
    let loaded = in_situation(Situation::Started { is_ready: true }, Some(info(State::Ready)));
    object.status = Some(compute(&object, &loaded, at(1)));
    let unreachable = || {
        let source = kube::Error::LinesCodecMaxLineLengthExceeded;
        let (kind, name) = ("Pod".to_owned(), "smollm2-0".to_owned());
        Err(Error::Dereference(DereferenceError::Read { kind, name, source }))
    };
    assert_eq!(Some(compute(&object, &unreachable(), at(2))), object.status);
    let status = compute(&model(), &unreachable(), at(2));
    assert_eq!(status.condition(ConditionType::Ready).unwrap().reason, "ClusterUnreachable");
    assert_eq!(status.observed_generation, None, "nothing was found out about this generation");
}

#[test]
fn permission_to_write_the_cache_is_explained() {
    let failed = Situation::FetchFailed { message: "creating /cache/models: Permission denied".to_owned() };
    let status = compute(&model(), &in_situation(failed, None), at(1));
    assert!(status.condition(ConditionType::Downloaded).unwrap().message.contains("65532"));
}
