//! Scenarios of reconcile against an API server in memory.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use common::fake_api::FakeApi;
use futures::future::BoxFuture;
use kindling_api::{ConditionType, LocalModel};
use kindling_operator::controller::{Context, reconcile};
use kindling_operator::metrics::Metrics;
use kindling_operator::runtime_info::RuntimeInfo;
use kindling_proto::v1::GetModelInfoResponse;
use kindling_proto::v1::get_model_info_response::State;
use kube::runtime::controller::Action;
use kube::runtime::events::{Recorder, Reporter};
use serde_json::{Value, json};

const MODEL: &str = "/apis/kindling.dev/v1alpha1/namespaces/models/localmodels/smollm2";
const POD: &str = "/api/v1/namespaces/models/pods/smollm2-0";
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
    runtime: FakeRuntime,
    cx: Arc<Context>,
}

impl Scenario {
    fn new() -> Self {
        let (api, runtime) = (FakeApi::default(), FakeRuntime::default());
        api.put(
            MODEL,
            json!({
                "apiVersion": "kindling.dev/v1alpha1",
                "kind": "LocalModel",
                "metadata": { "name": "smollm2", "namespace": "models", "uid": "uid-1", "generation": 1 },
                "spec": { "source": { "hf": { "repo": "org/name" } } },
            }),
        );
        let recorder = Recorder::new(api.client(), Reporter { controller: "test".into(), instance: None });
        let cx = Arc::new(Context {
            client: api.client(),
            config: common::config(),
            runtime: Arc::new(runtime.clone()),
            recorder,
            metrics: Arc::new(Metrics::new().unwrap()),
        });
        Self { api, runtime, cx }
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
            ..GetModelInfoResponse::default()
        });
    }

    fn reason(&self) -> String {
        let status = self.model().status.unwrap();
        status.condition(ConditionType::Ready).unwrap().reason.clone()
    }
}

#[tokio::test]
async fn new_model_applies_service_and_creates_pod() {
    let scenario = Scenario::new();
    scenario.reconcile().await.unwrap();
    assert_eq!(
        scenario.api.take_writes(),
        [
            "PATCH serviceaccounts/smollm2",
            "PATCH services/smollm2",
            "POST pods",
            "PATCH localmodels/smollm2/status",
            "POST events/Accepted",
            "POST events/PodPending"
        ]
    );
    assert_eq!(scenario.reason(), "PodPending");
    assert_eq!(scenario.model().endpoint(), Some("10.96.0.7:50051"));
}

#[tokio::test]
async fn unchanged_model_writes_no_status_and_no_event() {
    let scenario = Scenario::new();
    scenario.reconcile().await.unwrap();
    scenario.api.take_writes();
    assert_eq!(scenario.reconcile().await.unwrap(), Action::await_change());
    assert_eq!(scenario.api.take_writes(), APPLIES);
}

#[tokio::test]
async fn loading_model_is_polled_until_it_is_ready() {
    let scenario = Scenario::new();
    scenario.reconcile().await.unwrap();
    scenario.pod_runs(false);
    scenario.runtime_is(State::Loading);
    assert_eq!(scenario.reconcile().await.unwrap(), Action::requeue(std::time::Duration::from_secs(1)));
    assert_eq!(scenario.reason(), "Loading");
    scenario.pod_runs(true);
    scenario.runtime_is(State::Ready);
    assert_eq!(scenario.reconcile().await.unwrap(), Action::await_change(), "facts are known, nothing is left to ask");
    assert!(scenario.model().is_ready());
}

#[tokio::test]
async fn ready_model_whose_runtime_does_not_answer_the_operator_serves_and_is_asked_again() {
    let scenario = Scenario::new();
    scenario.reconcile().await.unwrap();
    scenario.pod_runs(true);
    assert_eq!(scenario.reconcile().await.unwrap(), Action::requeue(std::time::Duration::from_secs(5)));
    assert!(scenario.model().is_ready());
}

#[tokio::test]
async fn operator_that_was_absent_while_a_model_loaded_finds_it_ready() {
    let scenario = Scenario::new();
    scenario.reconcile().await.unwrap();
    scenario.pod_runs(true);
    scenario.runtime_is(State::Ready);
    scenario.reconcile().await.unwrap();
    let status = scenario.model().status.unwrap();
    assert_eq!(status.context_length, Some(2048));
    assert_eq!(status.node.as_deref(), Some("spark-1"));
    assert!(scenario.model().is_ready());
}

#[tokio::test]
async fn changed_spec_deletes_the_pod_awaits_it_and_creates_the_next() {
    let scenario = Scenario::new();
    scenario.reconcile().await.unwrap();
    scenario.pod_runs(true);
    scenario.edit_model("serving", json!({ "maxConcurrency": 8 }));
    scenario.api.take_writes();
    scenario.reconcile().await.unwrap();
    assert!(scenario.api.take_writes().contains(&"DELETE pods/smollm2-0".to_owned()));
    assert_eq!(scenario.reason(), "ReplacingPod");
    scenario.reconcile().await.unwrap();
    assert!(!scenario.api.take_writes().contains(&"POST pods".to_owned()), "the old pod is still there");
    scenario.api.remove(POD);
    scenario.reconcile().await.unwrap();
    assert!(scenario.api.take_writes().contains(&"POST pods".to_owned()));
}

#[tokio::test]
async fn changed_alias_leaves_the_pod_alone() {
    let scenario = Scenario::new();
    scenario.reconcile().await.unwrap();
    scenario.edit_model("gateway", json!({ "aliases": ["smol"] }));
    scenario.api.take_writes();
    scenario.reconcile().await.unwrap();
    assert_eq!(scenario.api.take_writes(), [APPLIES[0], APPLIES[1], "PATCH localmodels/smollm2/status"]);
}

#[tokio::test]
async fn refused_spec_writes_nothing_but_its_status() {
    let scenario = Scenario::new();
    scenario.edit_model("placement", json!({ "device": "Cuda" }));
    scenario.reconcile().await.unwrap_err();
    assert_eq!(scenario.reason(), "DeviceNotSupported");
    assert_eq!(scenario.api.take_writes(), ["PATCH localmodels/smollm2/status", "POST events/DeviceNotSupported"]);
}

#[tokio::test]
async fn refused_change_of_a_serving_model_touches_nothing_and_leaves_it_ready() {
    let scenario = Scenario::new();
    scenario.reconcile().await.unwrap();
    scenario.pod_runs(true);
    scenario.reconcile().await.unwrap();
    scenario.api.take_writes();
    scenario.edit_model("placement", json!({ "device": "Cuda" }));
    scenario.reconcile().await.unwrap_err();
    assert_eq!(scenario.reason(), "Serving");
    assert_eq!(scenario.api.take_writes(), ["PATCH localmodels/smollm2/status", "POST events/DeviceNotSupported"]);
    scenario.pod_runs(false);
    scenario.reconcile().await.unwrap_err();
    assert_eq!(scenario.reason(), "DeviceNotSupported");
}

#[tokio::test]
async fn somebody_elses_service_is_never_touched() {
    let scenario = Scenario::new();
    let theirs =
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "smollm2", "namespace": "models" } });
    scenario.api.put(SERVICE, theirs.clone());
    scenario.reconcile().await.unwrap_err();
    assert_eq!(scenario.reason(), "NameTaken");
    assert_eq!(scenario.api.get(SERVICE), Some(theirs));
}

#[tokio::test]
async fn refused_pod_is_told_with_the_servers_words() {
    let scenario = Scenario::new();
    scenario.api.refuse("POST pods", "exceeded quota: models");
    let error = scenario.reconcile().await.unwrap_err();
    assert_eq!(error, "writing to the cluster: creating pod smollm2-0: exceeded quota: models");
    assert_eq!(scenario.reason(), "ApplyFailed");
}

#[tokio::test]
async fn scaling_to_zero_deletes_the_pod_and_keeps_the_service() {
    let scenario = Scenario::new();
    scenario.reconcile().await.unwrap();
    scenario.edit_model("replicas", json!(0));
    scenario.reconcile().await.unwrap();
    scenario.api.remove(POD);
    scenario.reconcile().await.unwrap();
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
    scenario.reconcile().await.unwrap();
    assert!(scenario.api.take_writes().is_empty());
}
