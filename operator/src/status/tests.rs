//! The table: what is the case, and what the status says about it.

use kindling_api::NodeGpu;
use kindling_envelope::ledger::{Busy, Holder, Misfit, State, Time, Unusable};
use kindling_envelope::{Alternatives, Bytes, Device, Footprint, Shortfall};
use kindling_proto::v1::get_model_info_response::State as Phase;
use kindling_proto::v1::{EnsureModelResponse, MemoryTerms};
use serde_json::json;

use super::*;
use crate::dereference::DereferenceError;
use crate::facts::{Failure, FailureKind};
use crate::placement::Outcome;
use crate::placement::device::{Places, choose};
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
    let pod_name = (situation != Situation::Unplaced).then(|| "smollm2-0".to_owned());
    let endpoint = Some("10.96.0.7:50051".to_owned());
    let outcome = Some(outcome(Verdict::Admitted { node: "spark-1".to_owned(), state: State::Loading }));
    let first = ObservedCopy { situation, info, outcome, pod_name, ..ObservedCopy::default() };
    Ok(Observed { first, endpoint, ..Observed::default() })
}

fn outcome(verdict: Verdict) -> Outcome {
    let node = verdict.node().map(str::to_owned);
    let footprint = Footprint {
        weights: Bytes::mib(98),
        kv_cache: Bytes::mib(360),
        activations: Bytes::mib(10),
        runtime: Bytes::mib(64),
        load_transient: Bytes::mib(9),
    };
    let (room, chosen) = (None, None);
    Outcome {
        verdict,
        footprint: Some(footprint),
        context: Some(4096),
        room,
        node,
        chosen,
        failure: None,
        lesson: None,
    }
}

fn unplaced(verdict: Verdict) -> Result<Observed, Error> {
    let first = ObservedCopy { outcome: Some(outcome(verdict)), ..ObservedCopy::default() };
    Ok(Observed { first, ..Observed::default() })
}

fn info(state: Phase) -> GetModelInfoResponse {
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
        memory: Some(MemoryTerms { process_bytes: 500 << 20, ..MemoryTerms::default() }),
        ..GetModelInfoResponse::default()
    }
}

/// `Resolved Downloaded MemoryAdmitted Loaded Ready`, each as its status' first letter and its reason.
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
        (Situation::ScaledToZero, None, "F:ScaledToZero F:ScaledToZero"),
        (Situation::Replacing, None, "F:ReplacingPod F:ReplacingPod"),
        (Situation::Ended { message: words() }, None, "F:RestartBackoff F:RestartBackoff"),
        (Situation::Pending, None, "F:PodPending F:PodPending"),
        (Situation::Unschedulable { message: words() }, None, "F:Unschedulable F:Unschedulable"),
        (Situation::ImagePull { message: words() }, None, "F:ImagePullFailed F:ImagePullFailed"),
        (Situation::ConfigInvalid { message: words() }, None, "F:ContainerConfigInvalid F:ContainerConfigInvalid"),
        (Situation::Crashed { message: words(), restarts: 2 }, None, "F:CrashLoop F:CrashLoop"),
        (started(false), None, "F:Starting F:Starting"),
        (started(false), Some(Phase::Loading), "F:Loading F:Loading"),
        (started(false), Some(Phase::Ready), "T:Loaded F:AwaitingReadiness"),
        (started(false), Some(Phase::Draining), "T:Loaded F:Draining"),
        (started(true), Some(Phase::Ready), "T:Loaded T:Serving"),
        (started(true), None, "T:Loaded T:Serving"),
    ];
    for (situation, state, expected) in table {
        let outcome = in_situation(situation.clone(), state.map(info));
        let status = compute(&model(), &outcome, at(1));
        assert_eq!(line(&status), format!("T:Accepted T:Downloaded T:Reserved {expected}"), "{situation:?}");
        assert_eq!(status.observed_generation, Some(2), "{situation:?}");
    }
}

#[test]
fn every_verdict_has_its_line_and_its_words() {
    let shortfall = Shortfall {
        needed: Bytes::gib(9),
        total: Bytes::gib(8),
        system: Bytes::gib(1),
        held: Bytes(0),
        free: Bytes::gib(7),
    };
    let alternatives = Alternatives { context: Some(2048), ..Alternatives::default() };
    let misfit = || Misfit { node: "spark-1".to_owned(), shortfall, alternatives: alternatives.clone() };
    let holder = Holder { name: "models/llama".to_owned(), bytes: Bytes::gib(5), state: State::Resident };
    let busy = Busy { node: "spark-1".to_owned(), shortfall: Some(shortfall), who: vec![holder.clone()] };
    let waiting = Verdict::WaitingForMemory { nodes: vec![busy], behind: Vec::new() };
    let release = Verdict::WaitingForRelease { node: "spark-1".to_owned(), who: vec![holder.clone()] };
    let deferred = Verdict::SwapDeferred { node: "spark-1".to_owned(), until: Time(9), who: vec![holder] };
    let unusable = |why| Verdict::NoUsableNode { nodes: vec![("spark-1".to_owned(), why)] };
    let table = [
        (Verdict::Refused { misfits: vec![misfit()] }, "DoesNotFit", "would fit with contextLength 2048"),
        (waiting, "WaitingForMemory", "held by models/llama (5.00 GiB)"),
        (release, "WaitingForRelease", "until the memory of models/llama"),
        (deferred, "SwapDeferred", "until models/llama (5.00 GiB) may leave"),
        (unusable(Unusable::NoAgent), "NoAgent", "spark-1 has no agent"),
        (unusable(Unusable::Pressure), "NoUsableNode", "spark-1 runs out of memory"),
        (Verdict::NoNode, "NoNode", "no node"),
        (Verdict::OneCopyPerNode { nodes: vec!["spark-1".to_owned()] }, "OneCopyPerNode", "spark-1 has one"),
        (Verdict::Idle, "Idle", "no request"),
        (Verdict::Suspended, "Suspended", "suspended"),
        (Verdict::FactsUnknown, "FactsUnknown", "being asked what it takes"),
    ];
    for (verdict, reason, words) in table {
        let status = compute(&model(), &unplaced(verdict), at(1));
        assert_eq!(line(&status), format!("T:Accepted U:Waiting F:{reason} F:Waiting F:{reason}"));
        let message = &status.condition(ConditionType::MemoryAdmitted).unwrap().message;
        assert!(message.contains(words), "{reason}: {message}");
    }
    let refused = compute(&model(), &unplaced(Verdict::Refused { misfits: vec![misfit()] }), at(1));
    assert!(refused.envelope.unwrap().suggestion.unwrap().contains("contextLength 2048"));
    assert_eq!(refused.memory.unwrap().total.as_deref(), Some("532Mi"));
}

#[test]
fn change_that_does_not_fit_leaves_the_model_serving_and_is_said() {
    let shortfall = Shortfall { needed: Bytes(2), total: Bytes(1), system: Bytes(0), held: Bytes(0), free: Bytes(1) };
    let misfit = Misfit { node: "spark-1".to_owned(), shortfall, alternatives: Alternatives::default() };
    let verdict = Verdict::ChangeRefused { misfit: Box::new(misfit) };
    let mut observed = in_situation(Situation::Started { is_ready: true }, Some(info(Phase::Ready))).unwrap();
    observed.first.outcome = Some(outcome(verdict));
    let status = compute(&model(), &Ok(observed), at(1));
    assert_eq!(line(&status), "T:Accepted T:Downloaded F:ChangeDoesNotFit T:Loaded T:Serving");
}

#[test]
fn download_is_told_with_its_progress() {
    let place = EnsureModelResponse {
        state: EnsureState::Downloading.into(),
        bytes: 40 << 20,
        total_bytes: 100 << 20,
        bytes_per_second: 20 << 20,
        ..EnsureModelResponse::default()
    };
    let mut observed = unplaced(Verdict::WaitingForWeights { nodes: vec!["spark-1".to_owned()] }).unwrap();
    observed.known.places.insert("spark-1".to_owned(), place.clone());
    let status = compute(&model(), &Ok(observed.clone()), at(1));
    assert_eq!(line(&status), "T:Accepted F:Downloading U:Waiting F:Waiting F:Downloading");
    assert_eq!(status.condition(ConditionType::Downloaded).unwrap().message, "40 of 100 MiB, 20 MiB/s");
    assert_eq!(status.download.unwrap().remaining_seconds, Some(3));
    let failed = EnsureModelResponse { state: EnsureState::Failed.into(), message: "no space".to_owned(), ..place };
    observed.known.places.insert("spark-1".to_owned(), failed);
    let status = compute(&model(), &Ok(observed), at(2));
    assert_eq!(line(&status), "T:Accepted F:DownloadFailed U:Waiting F:Waiting F:DownloadFailed");
}

#[test]
fn source_that_is_not_there_or_can_not_be_run_is_not_resolved() {
    let mut observed = unplaced(Verdict::FactsUnknown).unwrap();
    observed.known.failure = Some(Failure { kind: FailureKind::NotFound, message: "no such repository".to_owned() });
    let status = compute(&model(), &Ok(observed), at(1));
    assert_eq!(line(&status), "F:SourceNotFound U:Waiting F:FactsUnknown F:Waiting F:SourceNotFound");
}

#[test]
fn operator_that_knows_nothing_yet_leaves_what_stood_there() {
    let mut object = model();
    let serving = in_situation(Situation::Started { is_ready: true }, Some(info(Phase::Ready)));
    object.status = Some(compute(&object, &serving, at(1)));
    let mut observed = in_situation(Situation::Started { is_ready: true }, None).unwrap();
    observed.first.outcome = None;
    assert_eq!(Some(compute(&object, &Ok(observed), at(2))), object.status);
}

/// As a round would say of a node with this GPU.
fn with_gpu(device: Option<Device>, gpu: NodeGpu, info: GetModelInfoResponse) -> Result<Observed, Error> {
    let mut observed = in_situation(Situation::Started { is_ready: true }, Some(info)).unwrap();
    let gpus = [("spark-1".to_owned(), gpu)].into();
    observed.first.node = Some("spark-1".to_owned());
    let outcome = observed.first.outcome.as_mut().unwrap();
    outcome.chosen = Some(choose(device, &["spark-1".to_owned()].into(), &gpus, None, &Places::default()));
    Ok(observed)
}

#[test]
fn what_computes_is_told_and_why_it_is_not_the_gpu() {
    let gpu = |reason: Option<&str>| NodeGpu {
        name: Some("NVIDIA GB10".to_owned()),
        compute_capability: Some("12.1".to_owned()),
        driver_cuda_version: Some("13.0".to_owned()),
        usable: reason.is_none(),
        reason: reason.map(str::to_owned),
    };
    let told = |device, gpu, info| compute(&model(), &with_gpu(device, gpu, info), at(1)).acceleration.unwrap();
    let kernels = vec!["linear: bf16 mma".to_owned()];
    let on_gpu = GetModelInfoResponse { device: "cuda".to_owned(), kernels: kernels.clone(), ..info(Phase::Ready) };
    let expected = Acceleration {
        device: "Cuda".to_owned(),
        name: Some("NVIDIA GB10".to_owned()),
        compute_capability: Some("12.1".to_owned()),
        kernels,
        reason: None,
    };
    assert_eq!(told(None, gpu(None), on_gpu), expected);
    let on_cpu = |reason: Option<&str>| Acceleration {
        device: "Cpu".to_owned(),
        reason: reason.map(str::to_owned),
        ..Acceleration::default()
    };
    let too_old = "no GPU can be used: driver too old";
    assert_eq!(told(None, gpu(Some("driver too old")), info(Phase::Ready)), on_cpu(Some(too_old)));
    assert_eq!(told(Some(Device::Cpu), gpu(None), info(Phase::Ready)), on_cpu(None), "it was asked for");
    let none = NodeGpu { reason: Some("no NVIDIA driver".to_owned()), ..NodeGpu::default() };
    assert_eq!(told(None, none, info(Phase::Ready)), on_cpu(None), "there is no GPU to speak of");
}

#[test]
fn loading_tells_how_far_it_is() {
    let outcome = in_situation(Situation::Started { is_ready: false }, Some(info(Phase::Loading)));
    let status = compute(&model(), &outcome, at(1));
    assert_eq!(status.condition(ConditionType::Loaded).unwrap().message, "40 of 100 MiB");
}

#[test]
fn facts_come_from_the_runtime() {
    let outcome = in_situation(Situation::Started { is_ready: true }, Some(info(Phase::Ready)));
    let status = compute(&model(), &outcome, at(1));
    assert_eq!(status.source.as_deref(), Some("org/name"));
    assert_eq!(status.model.unwrap().architecture, "LlamaForCausalLM");
    assert_eq!(status.acceleration.unwrap().device, "Cpu");
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
    let loaded = in_situation(Situation::Started { is_ready: true }, Some(info(Phase::Ready)));
    object.status = Some(compute(&object, &loaded, at(1)));
    assert!(has_facts(&object));
    assert_eq!(Some(compute(&object, &ready(), at(2))), object.status, "nothing changed, so nothing is written");
    object.metadata.generation = Some(3);
    assert!(!has_facts(&object));
    assert_eq!(compute(&object, &ready(), at(2)).model, None);
    let status = object.status.unwrap();
    assert_eq!(status.memory.unwrap().measured.as_deref(), Some("500Mi"));
}

#[test]
fn time_of_transition_stays_while_the_status_stays() {
    let mut object = model();
    object.status = Some(compute(&object, &in_situation(Situation::Pending, None), at(1)));
    let loaded = in_situation(Situation::Started { is_ready: false }, Some(info(Phase::Ready)));
    let status = compute(&object, &loaded, at(2));
    assert_eq!(status.condition(ConditionType::Ready).unwrap().last_transition_time.0, at(1));
    assert_eq!(status.condition(ConditionType::Loaded).unwrap().last_transition_time.0, at(2));
}

fn refused(is_serving: bool) -> Result<Observed, Error> {
    Err(Error::Validate { source: ValidateError::SourceCount, is_serving })
}

#[test]
fn refused_change_of_a_serving_model_leaves_it_ready_until_its_pod_ends() {
    let mut object = model();
    let loaded = in_situation(Situation::Started { is_ready: true }, Some(info(Phase::Ready)));
    object.status = Some(compute(&object, &loaded, at(1)));
    object.metadata.generation = Some(3);
    object.status = Some(compute(&object, &refused(true), at(2)));
    let status = object.status.as_ref().unwrap();
    assert_eq!(line(status), "F:InvalidSource T:Downloaded T:Reserved T:Loaded T:Serving");
    assert_eq!(status.condition(ConditionType::Ready).unwrap().last_transition_time.0, at(1));
    assert_eq!(status.endpoint.as_deref(), Some("10.96.0.7:50051"), "its traffic goes on");
    let ended = compute(&object, &refused(false), at(3));
    assert_eq!(ended.condition(ConditionType::Ready).unwrap().reason, "InvalidSource");
}

#[test]
fn refused_spec_is_not_ready_and_says_what_to_do() {
    let status = compute(&model(), &refused(false), at(1));
    assert_eq!(line(&status), "F:InvalidSource U:Waiting U:Waiting U:Waiting F:InvalidSource");
    assert!(status.condition(ConditionType::Ready).unwrap().message.contains("exactly one of hf and hostPath"));
    assert_eq!(status.observed_generation, Some(2));
}

#[test]
fn unreachable_cluster_leaves_a_serving_model_ready() {
    let mut object = model();
    let loaded = in_situation(Situation::Started { is_ready: true }, Some(info(Phase::Ready)));
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
fn what_was_learned_outlives_a_changed_spec_and_a_refusal() {
    let lesson = |total_bytes| LearnedTerms {
        settings: "as asked".to_owned(),
        measured: MeasuredTerms { total_bytes, ..MeasuredTerms::default() },
        ..LearnedTerms::default()
    };
    let observed = |lesson: Option<LearnedTerms>| {
        let verdict = Verdict::Admitted { node: "spark-1".to_owned(), state: State::Resident };
        let outcome = Some(Outcome { lesson, ..outcome(verdict) });
        let situation = Situation::Started { is_ready: true };
        let first = ObservedCopy { situation, outcome, ..ObservedCopy::default() };
        Ok(Observed { first, ..Observed::default() })
    };
    let learned = |object: &LocalModel| object.status.clone().unwrap().envelope.unwrap().learned;
    let mut object = model();
    object.status = Some(compute(&object, &observed(Some(lesson(7))), at(1)));
    assert_eq!(learned(&object), Some(lesson(7)));
    object.status = Some(compute(&object, &observed(Some(lesson(5))), at(2)));
    assert_eq!(learned(&object), Some(lesson(7)), "the most");
    object.metadata.generation = Some(3);
    for outcome in [observed(None), unplaced(Verdict::NoNode), Ok(Observed::default())] {
        object.status = Some(compute(&object, &outcome, at(3)));
        assert_eq!(learned(&object), Some(lesson(7)));
    }
}

#[test]
fn model_of_several_copies_is_ready_while_one_serves_and_says_what_the_others_wait_for() {
    let busy = Busy { node: "spark-2".to_owned(), shortfall: None, who: Vec::new() };
    let waiting = ObservedCopy {
        outcome: Some(outcome(Verdict::WaitingForMemory { nodes: vec![busy], behind: Vec::new() })),
        ..ObservedCopy::default()
    };
    let mut observed = in_situation(Situation::Started { is_ready: true }, Some(info(Phase::Ready))).unwrap();
    observed.first.node = Some("spark-1".to_owned());
    observed.first.address = Some("10.0.0.7:50051".to_owned());
    observed.others = vec![waiting];
    let status = compute(&model(), &Ok(observed.clone()), at(1));
    assert_eq!(line(&status), "T:Accepted T:Downloaded F:WaitingForMemory F:Waiting T:Serving");
    let words = "1 of 2 copies answer requests; copy 1: WaitingForMemory: spark-2: what is free is kept";
    assert_eq!(status.condition(ConditionType::Ready).unwrap().message, words);
    assert_eq!((status.replicas, status.ready_replicas, status.node.as_deref()), (1, 1, Some("spark-1")));
    let addresses: Vec<_> = status.copies.iter().map(|copy| (copy.ready, copy.address.as_deref())).collect();
    assert_eq!(addresses, [(true, Some("10.0.0.7:50051")), (false, None)]);
    assert_eq!(status.copies[1].reason, "WaitingForMemory");
    assert!(has_facts_in(&status), "the one that serves has told them");

    // The other one serves, and the first does not any more.
    let mut served = observed.first.clone();
    served.node = Some("spark-2".to_owned());
    observed.others = vec![served];
    observed.first.situation = Situation::Crashed { message: "words".to_owned(), restarts: 1 };
    let status = compute(&model(), &Ok(observed.clone()), at(2));
    assert_eq!(line(&status), "T:Accepted T:Downloaded T:Reserved F:CrashLoop T:Serving");
    assert_eq!((status.replicas, status.ready_replicas, status.node.as_deref()), (2, 1, Some("spark-1, spark-2")));
    assert!(status.condition(ConditionType::Loaded).unwrap().message.starts_with("copy 0: "));

    observed.others[0].situation = Situation::Pending;
    let status = compute(&model(), &Ok(observed), at(3));
    assert_eq!(line(&status), "T:Accepted T:Downloaded T:Reserved F:CrashLoop F:CrashLoop");
    assert_eq!(status.ready_replicas, 0);
}
