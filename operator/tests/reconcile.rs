//! Scenarios of reconcile against an API server in memory.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use common::fake_agents::FakeAgents;
use common::fake_api::FakeApi;
use futures::future::BoxFuture;
use kindling_api::{ConditionType, LocalModel};
use kindling_operator::controller::{Context, reconcile};
use kindling_operator::facts::FactsCache;
use kindling_operator::metrics::Metrics;
use kindling_operator::placement::Placement;
use kindling_operator::runtime_info::RuntimeInfo;
use kindling_proto::v1::ensure_model_response::State as EnsureState;
use kindling_proto::v1::get_model_info_response::State;
use kindling_proto::v1::{EnsureModelResponse, GetModelInfoResponse, MemoryTerms};
use kube::runtime::controller::Action;
use kube::runtime::events::{Recorder, Reporter};
use serde_json::{Value, json};

const MODEL: &str = "/apis/kindling.dev/v1alpha1/namespaces/models/localmodels/smollm2";
const POD: &str = "/api/v1/namespaces/models/pods/smollm2-0";
const ENVELOPE: &str = "/apis/kindling.dev/v1alpha1/nodeenvelopes/spark-1";
const SERVICE: &str = "/api/v1/namespaces/models/services/smollm2";

/// Made good at every reconcile, whether or not something changed.
const APPLIES: [&str; 2] = ["PATCH serviceaccounts/smollm2", "PATCH services/smollm2"];

#[derive(Clone, Default)]
struct FakeRuntime(Arc<Mutex<Option<GetModelInfoResponse>>>);

impl RuntimeInfo for FakeRuntime {
    fn model_info(&self, _: IpAddr) -> BoxFuture<'_, Option<GetModelInfoResponse>> {
        Box::pin(async { self.0.lock().unwrap().clone() })
    }
}

struct Scenario {
    api: FakeApi,
    agents: FakeAgents,
    runtime: FakeRuntime,
    cx: Arc<Context>,
}

impl Scenario {
    /// A model, and a node of 24 GiB with an agent.
    fn new() -> Self {
        let (api, runtime, agents) = (FakeApi::default(), FakeRuntime::default(), FakeAgents::default());
        api.put(
            MODEL,
            json!({
                "apiVersion": "kindling.dev/v1alpha1",
                "kind": "LocalModel",
                "metadata": { "name": "smollm2", "namespace": "models", "uid": "uid-1", "generation": 1 },
                "spec": { "source": { "hf": { "repo": "org/name" } } },
            }),
        );
        api.put(
            "/api/v1/nodes/spark-1",
            json!({
                "apiVersion": "v1", "kind": "Node", "metadata": { "name": "spark-1", "labels": { "kubernetes.io/hostname": "spark-1.lan" } },
                "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
            }),
        );
        let recorder = Recorder::new(api.client(), Reporter { controller: "test".into(), instance: None });
        let (changed, _) = tokio::sync::mpsc::unbounded_channel();
        let wake = Arc::new(tokio::sync::Notify::new());
        let facts = Arc::new(FactsCache::new(Arc::new(agents.clone()), Arc::clone(&wake)));
        let cx = Arc::new(Context {
            client: api.client(),
            config: common::config(),
            placement: Arc::new(Placement::new(api.client(), common::config(), facts, wake, changed)),
            runtime: Arc::new(runtime.clone()),
            recorder,
            metrics: Arc::new(Metrics::new().unwrap()),
        });
        let scenario = Self { api, agents, runtime, cx };
        scenario.node_has(24 << 30, 22 << 30);
        scenario
    }

    /// What the agent writes: memory in all, and available.
    fn node_has(&self, total: u64, available: u64) {
        self.node_has_in(0, total, available);
    }

    /// What it writes so many seconds later: by a measurement that is younger than what happened until now.
    fn node_has_in(&self, seconds: i64, total: u64, available: u64) {
        let now = k8s_openapi::jiff::Timestamp::now() + k8s_openapi::jiff::SignedDuration::from_secs(seconds);
        let found = self.api.get(ENVELOPE);
        let spec = found.as_ref().map_or_else(|| json!({}), |found| found["spec"].clone());
        let version = found.map_or_else(|| json!("1"), |found| found["metadata"]["resourceVersion"].clone());
        self.api.put(
            ENVELOPE,
            json!({
                "apiVersion": "kindling.dev/v1alpha1",
                "kind": "NodeEnvelope",
                "metadata": { "name": "spark-1", "resourceVersion": version },
                "spec": spec,
                "status": {
                    "measuredAt": now.to_string(),
                    "agentAddress": "10.0.0.1:9402",
                    "memory": {
                        "totalBytes": total, "availableBytes": available, "freeBytes": available,
                        "freeInLargeBlocksBytes": available, "baselineBytes": 1 << 30, "swapTotalBytes": 0,
                        "swapUsedBytes": 0, "floorStartBytes": 0, "floorRunBytes": 0,
                    },
                },
            }),
        );
    }

    /// Another node like the first.
    fn second_node(&self) {
        let mut node = self.api.get("/api/v1/nodes/spark-1").unwrap();
        node["metadata"] = json!({ "name": "spark-2", "labels": { "kubernetes.io/hostname": "spark-2.lan" } });
        self.api.put("/api/v1/nodes/spark-2", node);
        let mut envelope = self.api.get(ENVELOPE).unwrap();
        envelope["metadata"]["name"] = json!("spark-2");
        envelope["spec"] = json!({});
        envelope["status"]["agentAddress"] = json!("10.0.0.2:9402");
        self.api.put(&ENVELOPE.replace("spark-1", "spark-2"), envelope);
    }

    /// Rounds until nothing is left to be done, with what agents answer in between, then one reconcile.
    async fn settle(&self) -> Result<Action, String> {
        for _ in 0..8 {
            self.cx.placement.round().await.map_err(|error| error.with_sources())?;
            for _ in 0..8 {
                tokio::task::yield_now().await;
            }
        }
        self.reconcile().await
    }

    /// State of the reservations of the node.
    fn ledger(&self) -> Vec<String> {
        let envelope = self.api.get(ENVELOPE).unwrap();
        let reservations = envelope["spec"]["reservations"].as_array().cloned().unwrap_or_default();
        reservations
            .iter()
            .map(|held| format!("{} {}", held["model"].as_str().unwrap(), held["state"].as_str().unwrap()))
            .collect()
    }

    async fn reconcile(&self) -> Result<Action, String> {
        let object = Arc::new(self.model());
        reconcile(object, self.cx.clone()).await.map_err(|error| error.with_sources())
    }

    fn model(&self) -> LocalModel {
        serde_json::from_value(self.api.get(MODEL).unwrap()).unwrap()
    }

    fn edit_model(&self, pointer: &str, value: Value) {
        let mut model = self.api.get(MODEL).unwrap();
        model["spec"][pointer] = value;
        model["metadata"]["generation"] = json!(model["metadata"]["generation"].as_i64().unwrap() + 1);
        self.api.put(MODEL, model);
    }

    /// What the kubelet would write.
    fn pod_runs(&self, is_ready: bool) {
        let mut pod = self.api.get(POD).unwrap();
        pod["spec"]["nodeName"] = json!("spark-1");
        pod["status"] = json!({
            "phase": "Running",
            "podIP": "10.244.0.9",
            "containerStatuses": [{
                "name": "runtime", "image": "i", "imageID": "", "restartCount": 0,
                "ready": is_ready, "state": { "running": {} },
            }],
        });
        self.api.put(POD, pod);
    }

    fn runtime_is(&self, state: State) {
        *self.runtime.0.lock().unwrap() = Some(GetModelInfoResponse {
            state: state.into(),
            loaded_bytes: 1 << 20,
            total_bytes: 2 << 20,
            architecture: "LlamaForCausalLM".to_owned(),
            weight_bytes: 2 << 20,
            max_model_len: 2048,
            memory: Some(MemoryTerms { process_bytes: 900 << 20, ..MemoryTerms::default() }),
            ..GetModelInfoResponse::default()
        });
    }

    fn reason(&self) -> String {
        let status = self.model().status.unwrap();
        status.condition(ConditionType::Ready).unwrap().reason.clone()
    }
}

#[tokio::test]
async fn new_model_gets_its_memory_then_its_pod() {
    let scenario = Scenario::new();
    scenario.reconcile().await.unwrap();
    assert_eq!(
        scenario.api.take_writes(),
        [APPLIES[0], APPLIES[1], "PATCH localmodels/smollm2/status", "POST events/Accepted", "POST events/PodPending"]
    );
    scenario.settle().await.unwrap();
    assert_eq!(
        scenario.api.take_writes(),
        [
            "PUT nodeenvelopes/spark-1",
            "POST v1/persistentvolumes",
            "POST persistentvolumeclaims",
            "POST pods",
            "PUT nodeenvelopes/spark-1",
            APPLIES[0],
            APPLIES[1],
            "PATCH localmodels/smollm2/status",
            "POST events/Downloaded",
            "POST events/Reserved"
        ]
    );
    assert_eq!(scenario.ledger(), ["models/smollm2 Loading"]);
    assert_eq!(scenario.model().endpoint(), Some("10.96.0.7:50051"));
    let pod = scenario.api.get(POD).unwrap();
    let args = pod["spec"]["containers"][0]["args"].as_array().unwrap();
    // 1 GiB of weights, 2 x 8192 tokens of 64 KiB, 512 tokens of 1 KiB; the process, with four sequences, 65,536 entries and
    // 160 bytes for each block of 16 tokens.
    let process = (17 << 20) + 65_536 * (300 + 4 * 10) + 2 * 8192 / 16 * 160;
    let budget = ((1_u64 << 30) + (1 << 30) + (512 << 10) + process).to_string();
    assert!(args.windows(2).any(|pair| pair[0] == "--memory-budget" && pair[1] == budget.as_str()), "{args:?}");
    assert_eq!(pod["spec"]["containers"][0]["resources"]["requests"]["memory"], budget.as_str());
}

#[tokio::test]
async fn cache_in_fp8_is_half_as_large_and_the_runtime_is_told() {
    let scenario = Scenario::new();
    scenario.edit_model("serving", json!({ "kvCache": { "type": "Fp8" } }));
    scenario.settle().await.unwrap();
    let args = scenario.api.get(POD).unwrap()["spec"]["containers"][0]["args"].clone();
    let args = args.as_array().unwrap();
    assert!(args.windows(2).any(|pair| pair[0] == "--kv-type" && pair[1] == "fp8"), "{args:?}");
    let predicted = scenario.model().status.unwrap().envelope.unwrap().predicted.unwrap();
    // 2 x 8192 tokens of 32 KiB.
    assert_eq!(predicted.kv_cache_bytes, 512 << 20);
}

#[tokio::test]
async fn what_becomes_of_weights_in_16_bits_is_asked_and_told() {
    for (remainder, is_told) in [("Keep", false), ("Fp8", true)] {
        let scenario = Scenario::new();
        scenario.edit_model("weights", json!({ "remainder": remainder }));
        scenario.settle().await.unwrap();
        let args = scenario.api.get(POD).unwrap()["spec"]["containers"][0]["args"].clone();
        let told = args.as_array().unwrap().windows(2).any(|pair| pair == ["--weights-remainder", "fp8"]);
        assert_eq!(told, is_told, "{args:?}");
    }
}

#[tokio::test]
async fn copies_go_to_nodes_of_their_own() {
    let scenario = Scenario::new();
    scenario.edit_model("replicas", json!(2));
    scenario.settle().await.unwrap();
    scenario.pod_runs(true);
    scenario.runtime_is(State::Ready);
    scenario.settle().await.unwrap();
    let second = POD.replace("smollm2-0", "smollm2-1");
    assert_eq!(scenario.api.get(&second), None, "there is no node for it");
    let status = scenario.model().status.unwrap();
    let ready = status.condition(ConditionType::Ready).unwrap();
    let words = "1 of 2 copies answer requests; copy 1: OneCopyPerNode: each node has at most one copy of a model, and \
                 spark-1 has one";
    assert_eq!((ready.status.as_str(), ready.message.as_str()), ("True", words));
    assert_eq!(status.condition(ConditionType::MemoryAdmitted).unwrap().reason, "OneCopyPerNode");

    scenario.second_node();
    scenario.settle().await.unwrap();
    let pod = scenario.api.get(&second).unwrap();
    let terms: Value =
        serde_json::from_str(pod["metadata"]["annotations"]["kindling.dev/memory-terms"].as_str().unwrap()).unwrap();
    assert_eq!(terms["node"], "spark-2");
    let status = scenario.model().status.unwrap();
    assert_eq!((status.replicas, status.ready_replicas, status.copies.len()), (2, 1, 2));
    assert_eq!(status.copies[0].address.as_deref(), Some("10.244.0.9:50051"));
    assert_eq!(status.copies[1].reason, "PodPending");

    scenario.edit_model("replicas", json!(1));
    scenario.settle().await.unwrap();
    let is_leaving = |path: &str| !scenario.api.get(path).unwrap()["metadata"]["deletionTimestamp"].is_null();
    assert_eq!((is_leaving(POD), is_leaving(&second)), (false, true));
    assert_eq!(scenario.model().status.unwrap().copies, []);
}

#[tokio::test]
async fn nothing_starts_without_an_agent_and_that_is_said() {
    let scenario = Scenario::new();
    scenario.api.remove(ENVELOPE);
    scenario.settle().await.unwrap();
    assert_eq!(scenario.reason(), "NoAgent");
    assert_eq!(scenario.api.get(POD), None);
}

#[tokio::test]
async fn model_that_fits_on_no_node_is_refused_with_what_would_fit() {
    let scenario = Scenario::new();
    scenario.node_has(4 << 30, 3 << 30);
    scenario.agents.change_facts(|facts| facts.max_context = 65_536);
    scenario.settle().await.unwrap();
    assert_eq!(scenario.reason(), "DoesNotFit");
    let status = scenario.model().status.unwrap();
    let suggestion = status.envelope.unwrap().suggestion.unwrap();
    assert!(suggestion.contains("would fit with contextLength"), "{suggestion}");
    assert_eq!((scenario.api.get(POD), scenario.ledger()), (None, Vec::new()));
}

#[tokio::test]
async fn weights_come_before_memory_and_memory_before_the_pod() {
    let scenario = Scenario::new();
    let coming = EnsureModelResponse {
        state: EnsureState::Downloading.into(),
        bytes: 1 << 20,
        total_bytes: 4 << 20,
        ..EnsureModelResponse::default()
    };
    scenario.agents.say_of_weights(coming);
    scenario.settle().await.unwrap();
    assert_eq!(scenario.reason(), "Downloading");
    assert_eq!((scenario.api.get(POD), scenario.ledger()), (None, Vec::new()));
}

#[tokio::test]
async fn source_that_the_hub_does_not_know_is_told_with_its_words() {
    let scenario = Scenario::new();
    scenario.agents.say_of_facts(Err(tonic::Status::not_found("hf:org/name@main: no such repository")));
    scenario.settle().await.unwrap();
    assert_eq!(scenario.reason(), "SourceNotFound");
}

#[tokio::test]
async fn ledger_that_somebody_else_wrote_meanwhile_is_read_again() {
    let scenario = Scenario::new();
    scenario.api.refuse("PUT nodeenvelopes/spark-1", "the object has been modified");
    for _ in 0..8 {
        // The first rounds ask for facts and weights.
        let _ = scenario.cx.placement.round().await;
        tokio::task::yield_now().await;
    }
    let error = scenario.cx.placement.round().await.unwrap_err().with_sources();
    assert!(error.contains("writing the ledger of spark-1") && error.contains("modified"), "{error}");
    assert_eq!(scenario.api.get(POD), None, "no pod without a written reservation");
}

#[tokio::test]
async fn unchanged_model_writes_no_status_and_no_event() {
    let scenario = Scenario::new();
    scenario.settle().await.unwrap();
    scenario.api.take_writes();
    assert_eq!(scenario.settle().await.unwrap(), Action::await_change());
    assert_eq!(scenario.api.take_writes(), APPLIES);
}

#[tokio::test]
async fn loading_model_is_polled_until_it_is_ready() {
    let scenario = Scenario::new();
    scenario.settle().await.unwrap();
    scenario.pod_runs(false);
    scenario.runtime_is(State::Loading);
    assert_eq!(scenario.settle().await.unwrap(), Action::requeue(std::time::Duration::from_secs(1)));
    assert_eq!(scenario.reason(), "Loading");
    scenario.pod_runs(true);
    scenario.runtime_is(State::Ready);
    assert_eq!(scenario.settle().await.unwrap(), Action::await_change(), "facts are known, nothing is left to ask");
    assert!(scenario.model().is_ready());
}

#[tokio::test]
async fn ready_model_whose_runtime_does_not_answer_the_operator_serves_and_is_asked_again() {
    let scenario = Scenario::new();
    scenario.settle().await.unwrap();
    scenario.pod_runs(true);
    assert_eq!(scenario.settle().await.unwrap(), Action::requeue(std::time::Duration::from_secs(5)));
    assert!(scenario.model().is_ready());
}

#[tokio::test]
async fn operator_that_was_absent_while_a_model_loaded_finds_it_ready() {
    let scenario = Scenario::new();
    scenario.settle().await.unwrap();
    scenario.pod_runs(true);
    scenario.runtime_is(State::Ready);
    scenario.settle().await.unwrap();
    let status = scenario.model().status.unwrap();
    assert_eq!(status.context_length, Some(2048));
    assert_eq!(status.node.as_deref(), Some("spark-1"));
    assert!(scenario.model().is_ready());
}

#[tokio::test]
async fn changed_spec_deletes_the_pod_awaits_its_memory_and_creates_the_next() {
    let scenario = Scenario::new();
    scenario.settle().await.unwrap();
    scenario.pod_runs(true);
    scenario.node_has(24 << 30, 20 << 30);
    scenario.settle().await.unwrap();
    assert_eq!(scenario.ledger(), ["models/smollm2 Resident"]);
    scenario.edit_model("serving", json!({ "maxConcurrency": 8 }));
    scenario.api.take_writes();
    scenario.settle().await.unwrap();
    assert!(scenario.api.take_writes().contains(&"DELETE pods/smollm2-0".to_owned()));
    assert_eq!(scenario.reason(), "ReplacingPod");
    // A runtime that drained ends well before its pod is gone: nothing has failed.
    let mut drained = scenario.api.get(POD).unwrap();
    drained["status"]["phase"] = json!("Succeeded");
    let now = k8s_openapi::jiff::Timestamp::now().to_string();
    drained["status"]["conditions"] = json!([{ "type": "Ready", "status": "False", "lastTransitionTime": now }]);
    scenario.api.put(POD, drained);
    scenario.settle().await.unwrap();
    scenario.api.remove(POD);
    scenario.settle().await.unwrap();
    assert!(!scenario.api.take_writes().contains(&"POST pods".to_owned()), "its memory is not measured to be back");
    assert_eq!(scenario.ledger(), ["models/smollm2 Releasing"]);
    scenario.node_has_in(5, 24 << 30, 23 << 30);
    scenario.settle().await.unwrap();
    assert!(scenario.api.take_writes().contains(&"POST pods".to_owned()));
}

#[tokio::test]
async fn changed_alias_leaves_the_pod_alone() {
    let scenario = Scenario::new();
    scenario.settle().await.unwrap();
    scenario.edit_model("gateway", json!({ "aliases": ["smol"] }));
    scenario.api.take_writes();
    scenario.settle().await.unwrap();
    assert_eq!(scenario.api.take_writes(), [APPLIES[0], APPLIES[1], "PATCH localmodels/smollm2/status"]);
}

#[tokio::test]
async fn refused_spec_writes_nothing_but_its_status() {
    let scenario = Scenario::new();
    scenario.edit_model("source", json!({ "hostPath": { "path": "/etc" } }));
    scenario.settle().await.unwrap_err();
    assert_eq!(scenario.reason(), "HostPathNotAllowed");
    assert_eq!(scenario.api.take_writes(), ["PATCH localmodels/smollm2/status", "POST events/HostPathNotAllowed"]);
}

#[tokio::test]
async fn refused_change_of_a_serving_model_touches_nothing_and_leaves_it_ready() {
    let scenario = Scenario::new();
    scenario.settle().await.unwrap();
    scenario.pod_runs(true);
    scenario.settle().await.unwrap();
    scenario.api.take_writes();
    scenario.edit_model("source", json!({ "hostPath": { "path": "/etc" } }));
    scenario.settle().await.unwrap_err();
    assert_eq!(scenario.reason(), "Serving");
    assert_eq!(scenario.api.take_writes(), ["PATCH localmodels/smollm2/status", "POST events/HostPathNotAllowed"]);
    scenario.pod_runs(false);
    scenario.settle().await.unwrap_err();
    assert_eq!(scenario.reason(), "HostPathNotAllowed");
}

impl Scenario {
    /// What the agent tells of the GPU.
    fn gpu_is(&self, reason: Option<&str>) {
        let mut envelope = self.api.get(ENVELOPE).unwrap();
        envelope["status"]["gpu"] = json!({
            "name": "NVIDIA GB10", "computeCapability": "12.1", "driverCudaVersion": "13.0",
            "usable": reason.is_none(), "reason": reason,
        });
        self.api.put(ENVELOPE, envelope);
    }

    fn runs_on_a_gpu(&self) -> bool {
        let pod = self.api.get(POD).unwrap();
        let container = &pod["spec"]["containers"][0];
        let has_backend = container["args"].as_array().unwrap().windows(2).any(|pair| pair == ["--backend", "cuda"]);
        let visible = container["env"].as_array().unwrap().iter().find(|it| it["name"] == "NVIDIA_VISIBLE_DEVICES");
        let expected = if has_backend { "all" } else { "void" };
        assert_eq!(visible.unwrap()["value"], expected);
        assert_eq!(pod["spec"]["runtimeClassName"] == "nvidia", has_backend, "{pod}");
        has_backend
    }

    fn condition(&self, condition: ConditionType) -> (String, String) {
        let status = self.model().status.unwrap();
        let found = status.condition(condition).unwrap();
        (found.reason.clone(), found.message.clone())
    }
}

#[tokio::test]
async fn gpu_that_can_be_used_computes_and_what_it_takes_there_is_reserved() {
    let scenario = Scenario::new();
    scenario.gpu_is(None);
    scenario.settle().await.unwrap();
    assert!(scenario.runs_on_a_gpu());
    let predicted = scenario.model().status.unwrap().envelope.unwrap().predicted.unwrap();
    assert_eq!(predicted.weights_bytes, (1 << 30) + (1 << 20));
    assert_eq!(predicted.runtime_bytes, 2 << 30, "as the formula has it for CUDA");
    scenario.pod_runs(true);
    scenario.runtime_is(State::Ready);
    scenario.settle().await.unwrap();
    assert_eq!(scenario.reason(), "Serving");
    // Somebody wants the processor: another pod, and memory for that.
    scenario.edit_model("placement", json!({ "device": "Cpu" }));
    scenario.settle().await.unwrap();
    assert_eq!(scenario.reason(), "ReplacingPod");
}

#[tokio::test]
async fn processor_computes_where_the_gpu_can_not_be_used_or_lacks_something() {
    let scenario = Scenario::new();
    scenario.gpu_is(Some("the NVIDIA driver is too old"));
    scenario.settle().await.unwrap();
    assert!(!scenario.runs_on_a_gpu());

    let scenario = Scenario::new();
    scenario.gpu_is(None);
    scenario.agents.lack_on_a_gpu("recurrent layers");
    scenario.settle().await.unwrap();
    assert!(!scenario.runs_on_a_gpu());
    scenario.api.take_writes();
    scenario.settle().await.unwrap();
    assert_eq!(scenario.api.take_writes(), APPLIES, "and stays where it is");
}

#[tokio::test]
async fn gpu_that_is_named_is_refused_by_node_and_reason_until_there_is_one() {
    let scenario = Scenario::new();
    scenario.gpu_is(Some("no NVIDIA driver: libcuda.so.1 could not be loaded"));
    scenario.edit_model("placement", json!({ "device": "Cuda" }));
    scenario.settle().await.unwrap();
    assert_eq!((scenario.reason().as_str(), scenario.api.get(POD)), ("DeviceNotSupported", None));
    let (_, message) = scenario.condition(ConditionType::Ready);
    assert!(message.contains("no node has a GPU that can be used: spark-1: no NVIDIA driver"), "{message}");
    assert_eq!(scenario.condition(ConditionType::MemoryAdmitted).0, "DeviceNotSupported");
    scenario.gpu_is(None);
    scenario.agents.lack_on_a_gpu("recurrent layers");
    scenario.settle().await.unwrap();
    assert_eq!((scenario.reason().as_str(), scenario.api.get(POD)), ("NotRunnable", None));
}

#[tokio::test]
async fn model_that_serves_goes_on_when_a_gpu_is_named_that_is_not_there() {
    let scenario = Scenario::new();
    scenario.gpu_is(Some("no NVIDIA driver"));
    scenario.settle().await.unwrap();
    scenario.pod_runs(true);
    scenario.settle().await.unwrap();
    scenario.edit_model("placement", json!({ "device": "Cuda" }));
    scenario.settle().await.unwrap();
    assert_eq!(scenario.reason(), "Serving");
    assert_eq!(scenario.condition(ConditionType::Resolved).0, "DeviceNotSupported");
    assert!(scenario.api.get(POD).unwrap()["metadata"]["deletionTimestamp"].is_null());
    scenario.gpu_is(None);
    scenario.settle().await.unwrap();
    assert_eq!(scenario.reason(), "ReplacingPod");
}

#[tokio::test]
async fn somebody_elses_service_is_never_touched() {
    let scenario = Scenario::new();
    let theirs =
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "smollm2", "namespace": "models" } });
    scenario.api.put(SERVICE, theirs.clone());
    scenario.settle().await.unwrap_err();
    assert_eq!(scenario.reason(), "NameTaken");
    assert_eq!(scenario.api.get(SERVICE), Some(theirs));
}

#[tokio::test]
async fn pod_that_is_refused_is_tried_again_and_keeps_its_memory() {
    let scenario = Scenario::new();
    scenario.api.refuse("POST pods", "exceeded quota: models");
    let error = scenario.settle().await.unwrap_err();
    assert!(error.contains("creating pod smollm2-0") && error.contains("exceeded quota: models"), "{error}");
    assert_eq!(scenario.ledger(), ["models/smollm2 Pending"]);
    scenario.reconcile().await.unwrap();
    assert_eq!(scenario.reason(), "ApplyFailed");
    let status = scenario.model().status.unwrap();
    assert!(status.condition(ConditionType::Ready).unwrap().message.contains("exceeded quota: models"));
}

#[tokio::test]
async fn scaling_to_zero_deletes_the_pod_and_keeps_the_service() {
    let scenario = Scenario::new();
    scenario.settle().await.unwrap();
    scenario.edit_model("replicas", json!(0));
    scenario.settle().await.unwrap();
    scenario.api.remove(POD);
    scenario.settle().await.unwrap();
    assert_eq!(scenario.reason(), "ScaledToZero");
    assert_eq!(scenario.api.get(POD), None);
    assert!(scenario.api.get(SERVICE).is_some());
    assert_eq!(scenario.model().status.unwrap().replicas, 0);
}

#[tokio::test]
async fn deleted_model_is_left_to_the_garbage_collector() {
    let scenario = Scenario::new();
    let mut model = scenario.api.get(MODEL).unwrap();
    model["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    scenario.api.put(MODEL, model);
    scenario.settle().await.unwrap();
    assert!(scenario.api.take_writes().is_empty());
}

const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/models/leases/smollm2-use";

impl Scenario {
    /// What a gateway writes while requests wait or run.
    fn used(&self, seconds_ago: i64) {
        let at = k8s_openapi::jiff::Timestamp::now() - k8s_openapi::jiff::SignedDuration::from_secs(seconds_ago);
        let at = format!("{at:.6}");
        self.api.put(
            LEASE,
            json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": { "name": "smollm2-use", "namespace": "models" },
                "spec": { "acquireTime": at, "renewTime": at },
            }),
        );
    }
}

#[tokio::test]
async fn model_on_demand_is_loaded_when_it_is_used_and_unloaded_when_it_was_not_for_long_enough() {
    let scenario = Scenario::new();
    scenario.edit_model("lifecycle", json!({ "activation": "OnDemand", "keepAlive": "60s" }));
    scenario.settle().await.unwrap();
    assert_eq!(scenario.reason(), "Idle");
    assert_eq!((scenario.api.get(POD), scenario.ledger()), (None, Vec::new()));
    scenario.used(0);
    scenario.settle().await.unwrap();
    assert_eq!(scenario.ledger(), ["models/smollm2 Loading"]);
    scenario.pod_runs(true);
    scenario.settle().await.unwrap();
    assert_eq!(scenario.ledger(), ["models/smollm2 Resident"]);
    // It has just become resident, which counts as use; it is kept for a minute from then.
    scenario.used(3600);
    scenario.settle().await.unwrap();
    assert_eq!(scenario.ledger(), ["models/smollm2 Resident"]);
    scenario.edit_model("lifecycle", json!({ "activation": "OnDemand", "keepAlive": "0s" }));
    scenario.settle().await.unwrap();
    assert_eq!(scenario.ledger(), ["models/smollm2 Releasing"]);
    assert!(scenario.api.take_writes().contains(&"DELETE pods/smollm2-0".to_owned()));
}

const VOLUMES: &str = "/api/v1/persistentvolumes";
const CLAIMS: &str = "/api/v1/namespaces/models/persistentvolumeclaims";

impl Scenario {
    /// Names of the volume and the claim that the pod is to use.
    fn weights_volume(&self) -> (String, String) {
        let pod = self.api.get(POD).unwrap();
        let claim = pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"].as_str().unwrap();
        let found = self.api.get(&format!("{CLAIMS}/{claim}")).unwrap();
        (found["spec"]["volumeName"].as_str().unwrap().to_owned(), claim.to_owned())
    }
}

#[tokio::test]
async fn weights_come_by_a_volume_of_just_that_model() {
    let scenario = Scenario::new();
    scenario.settle().await.unwrap();
    let (volume, claim) = scenario.weights_volume();
    let found = scenario.api.get(&format!("{VOLUMES}/{volume}")).unwrap();
    assert_eq!(found["spec"]["local"]["path"], "/var/lib/kindling/cache/models/hf/org/name/main");
    assert_eq!(found["spec"]["claimRef"]["name"], claim);
    assert_eq!(found["spec"]["capacity"]["storage"], (1_u64 << 30).to_string());
    let hosts = &found["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0]["values"];
    assert_eq!(hosts, &json!(["spark-1.lan"]));
    scenario.api.take_writes();
    scenario.settle().await.unwrap();
    let again: Vec<_> = scenario.api.take_writes().into_iter().filter(|call| call.contains("persistent")).collect();
    assert!(again.is_empty(), "{again:?}");
}

#[tokio::test]
async fn volume_that_was_removed_by_hand_comes_again_while_a_pod_waits_for_it() {
    let scenario = Scenario::new();
    scenario.settle().await.unwrap();
    let (volume, claim) = scenario.weights_volume();
    scenario.api.remove(&format!("{VOLUMES}/{volume}"));
    scenario.api.remove(&format!("{CLAIMS}/{claim}"));
    scenario.settle().await.unwrap();
    assert_eq!(scenario.weights_volume(), (volume, claim));
}

#[tokio::test]
async fn volume_that_nobody_can_claim_again_is_removed() {
    let scenario = Scenario::new();
    scenario.settle().await.unwrap();
    scenario.pod_runs(true);
    let (volume, _) = scenario.weights_volume();
    let path = format!("{VOLUMES}/{volume}");
    let phase_is = |phase: &str| {
        let mut found = scenario.api.get(&path).unwrap();
        found["status"] = json!({ "phase": phase });
        scenario.api.put(&path, found);
        scenario.api.take_writes();
    };
    let call = format!("DELETE persistentvolumes/{volume}");
    phase_is("Bound");
    scenario.settle().await.unwrap();
    assert!(!scenario.api.take_writes().contains(&call));
    phase_is("Released");
    scenario.settle().await.unwrap();
    assert!(scenario.api.take_writes().contains(&call));
}

#[tokio::test]
async fn volume_that_can_not_be_made_again_is_said_and_harms_no_sweep() {
    let scenario = Scenario::new();
    scenario.settle().await.unwrap();
    let (volume, claim) = scenario.weights_volume();
    scenario.api.remove(&format!("{CLAIMS}/{claim}"));
    scenario.api.refuse("POST persistentvolumeclaims", "exceeded quota: claims");
    let mut found = scenario.api.get(&format!("{VOLUMES}/{volume}")).unwrap();
    found["metadata"]["name"] = json!("kindling-left-behind");
    found["status"] = json!({ "phase": "Released" });
    scenario.api.put(&format!("{VOLUMES}/kindling-left-behind"), found);
    scenario.settle().await.unwrap_err();
    assert!(scenario.api.take_writes().contains(&"DELETE persistentvolumes/kindling-left-behind".to_owned()));
    let outcome = scenario.cx.placement.outcome("uid-1", 0).unwrap();
    assert!(outcome.failure.is_some_and(|failure| failure.contains("exceeded quota: claims")));
}

#[tokio::test]
async fn node_without_the_label_that_volumes_go_by_is_named() {
    let scenario = Scenario::new();
    let mut node = scenario.api.get("/api/v1/nodes/spark-1").unwrap();
    node["metadata"]["labels"] = json!({});
    scenario.api.put("/api/v1/nodes/spark-1", node);
    let error = scenario.settle().await.unwrap_err();
    assert!(error.contains("spark-1") && error.contains("kubernetes.io/hostname"), "{error}");
    assert_eq!(scenario.api.get(POD), None);
}

#[tokio::test]
async fn node_that_was_removed_takes_its_ledger_along_and_the_model_goes_elsewhere() {
    let scenario = Scenario::new();
    scenario.settle().await.unwrap();
    assert_eq!(scenario.ledger(), ["models/smollm2 Loading"]);
    let second = "/apis/kindling.dev/v1alpha1/nodeenvelopes/spark-2";
    let renamed = |path: &str| {
        let text = scenario.api.get(path).unwrap().to_string().replace("spark-1", "spark-2");
        serde_json::from_str::<Value>(&text).unwrap()
    };
    let mut envelope = renamed(ENVELOPE);
    envelope["spec"] = json!({});
    scenario.api.put(second, envelope);
    scenario.api.put("/api/v1/nodes/spark-2", renamed("/api/v1/nodes/spark-1"));
    scenario.api.remove("/api/v1/nodes/spark-1");
    scenario.api.take_writes();
    scenario.settle().await.unwrap();
    assert!(scenario.api.take_writes().contains(&"DELETE nodeenvelopes/spark-1".to_owned()));
    // What Kubernetes does with pods of nodes that are gone.
    scenario.api.remove(ENVELOPE);
    scenario.api.remove(POD);
    scenario.settle().await.unwrap();
    let found = scenario.api.get(second).unwrap();
    assert_eq!(found["spec"]["reservations"][0]["model"], "models/smollm2");
    assert!(scenario.api.get(POD).unwrap().to_string().contains("spark-2"));
}

/// Its name would keep the model from starting elsewhere, and Kubernetes removes those alone that were bound.
#[tokio::test]
async fn pod_that_was_never_bound_to_a_node_that_is_gone_is_removed() {
    for is_bound in [false, true] {
        let scenario = Scenario::new();
        scenario.settle().await.unwrap();
        let mut pod = scenario.api.get(POD).unwrap();
        if is_bound {
            pod["spec"]["nodeName"] = json!("spark-1");
        }
        scenario.api.put(POD, pod);
        scenario.api.remove("/api/v1/nodes/spark-1");
        scenario.api.take_writes();
        scenario.settle().await.unwrap();
        let is_removed = scenario.api.take_writes().contains(&"DELETE pods/smollm2-0".to_owned());
        assert_eq!(is_removed, !is_bound);
    }
}

#[tokio::test]
async fn model_on_a_lost_node_says_so() {
    let scenario = Scenario::new();
    scenario.settle().await.unwrap();
    scenario.pod_runs(true);
    scenario.runtime_is(State::Ready);
    scenario.settle().await.unwrap();
    assert_eq!(scenario.reason(), "Serving");
    let mut node = scenario.api.get("/api/v1/nodes/spark-1").unwrap();
    node["status"]["conditions"][0]["status"] = json!("Unknown");
    scenario.api.put("/api/v1/nodes/spark-1", node);
    scenario.settle().await.unwrap();
    assert_eq!(scenario.reason(), "NodeLost");
    assert_eq!(scenario.ledger(), ["models/smollm2 Resident"], "nobody knows that its memory is free");
}
