//! The webhook as an API server has it: over HTTPS, by a client that trusts the authority in the Secret and nobody else.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::fake_agents::FakeAgents;
use common::fake_api::FakeApi;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kindling_operator::WebhookConfig;
use kindling_operator::admission::certificate::SERVING_TIME;
use kindling_operator::admission::https::{self, Served};
use kindling_operator::admission::keeper::Keeper;
use kindling_operator::admission::{self, Admission};
use kindling_operator::facts::FactsCache;
use kindling_operator::placement::Placement;
use reqwest::{Certificate, Client, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const SECRET: &str = "/api/v1/namespaces/kindling/secrets/kindling-webhook-tls";
const CONFIGURATION: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/kindling";
const HOST: &str = "kindling-operator-webhook.kindling.svc";

/// A webhook that is served, and the cluster that it is told of.
struct Webhook {
    api: FakeApi,
    admission: Arc<Admission>,
    address: SocketAddr,
    served: Arc<Served>,
    shutdown: CancellationToken,
    server: tokio::task::JoinHandle<()>,
}

impl Webhook {
    async fn serve() -> Self {
        let api = FakeApi::default();
        let webhook = json!({
            "name": "localmodels.kindling.dev", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": { "service": { "name": "kindling-operator-webhook", "namespace": "kindling" } },
        });
        api.put(CONFIGURATION, json!({ "metadata": { "name": "kindling" }, "webhooks": [webhook] }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let admission = Arc::new(Admission::new(common::config()));
        let (served, shutdown) = (Arc::new(Served::default()), CancellationToken::new());
        let tls = https::server_config(Arc::clone(&served)).unwrap();
        let router = admission::router(Arc::clone(&admission));
        let server = tokio::spawn(https::serve(listener, tls, router, shutdown.clone()));
        Self { api, admission, address, served, shutdown, server }
    }

    /// One replica's.
    fn keeper(&self) -> Keeper {
        let webhook = WebhookConfig {
            listen: self.address,
            service: "kindling-operator-webhook".to_owned(),
            secret: "kindling-webhook-tls".to_owned(),
            configuration: "kindling".to_owned(),
        };
        let config = kindling_operator::OperatorConfig { lease_namespace: "kindling".to_owned(), ..common::config() };
        Keeper::new(self.api.client(), &config, &webhook, Arc::clone(&self.served))
    }

    fn secret(&self) -> Secret {
        serde_json::from_value(self.api.get(SECRET).unwrap()).unwrap()
    }

    /// What the API server is told to trust.
    fn bundle(&self) -> Option<ByteString> {
        let found = self.api.get(CONFIGURATION).unwrap();
        let found: ValidatingWebhookConfiguration = serde_json::from_value(found).unwrap();
        let config = found.webhooks.unwrap().remove(0).client_config;
        assert!(config.service.is_some(), "what the chart wrote stays");
        config.ca_bundle
    }

    /// Trusts what the API server is told to.
    fn client(&self) -> Client {
        // Others may have installed it already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let authorities = Certificate::from_pem_bundle(&self.bundle().unwrap().0).unwrap();
        let port = self.address.port();
        Client::builder()
            .tls_certs_only(authorities)
            .resolve(HOST, ([127, 0, 0, 1], port).into())
            .timeout(Duration::from_secs(20))
            .build()
            .unwrap()
    }

    async fn post(&self, client: &Client, body: Vec<u8>) -> (StatusCode, String) {
        let url = format!("https://{HOST}:{}{}", self.address.port(), admission::PATH);
        let answer = client.post(url).body(body).send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }

    async fn ask(&self, client: &Client, review: &Value) -> Value {
        let (code, body) = self.post(client, serde_json::to_vec(review).unwrap()).await;
        assert_eq!(code, StatusCode::OK, "{body}");
        let answer: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (&answer["kind"], &answer["apiVersion"]),
            (&json!("AdmissionReview"), &json!("admission.k8s.io/v1"))
        );
        assert_eq!(answer["response"]["uid"], review["request"]["uid"]);
        answer["response"].clone()
    }
}

fn model(name: &str, more: &Value) -> Value {
    let mut spec = json!({ "source": { "hf": { "repo": "org/name" } } });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({
        "apiVersion": "kindling.dev/v1alpha1", "kind": "LocalModel", "spec": spec,
        "metadata": { "name": name, "namespace": "models", "uid": format!("uid-of-{name}"), "generation": 1 },
    })
}

fn review(operation: &str, object: &Value, old: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "question-1", "operation": operation, "name": "llama", "namespace": "models",
            "kind": { "group": "kindling.dev", "version": "v1alpha1", "kind": "LocalModel" },
            "resource": { "group": "kindling.dev", "version": "v1alpha1", "resource": "localmodels" },
            "userInfo": { "username": "somebody" }, "dryRun": false, "object": object, "oldObject": old,
        },
    })
}

#[tokio::test]
async fn client_that_trusts_the_bundle_is_answered() {
    let webhook = Webhook::serve().await;
    webhook.keeper().look(Timestamp::now()).await.unwrap();
    assert_eq!(webhook.api.take_writes().len(), 2, "the Secret and the bundle");
    let client = webhook.client();
    let denied = webhook.ask(&client, &review("CREATE", &model("llama", &json!({ "source": {} })), &Value::Null)).await;
    assert_eq!(denied["allowed"], json!(false));
    let words = "spec.source needs exactly one of hf and hostPath";
    assert_eq!(denied["status"], json!({ "code": 403, "reason": "Forbidden", "message": words }));
    // A replica that makes no rounds knows nothing, and lets pass.
    let warned = webhook.ask(&client, &review("CREATE", &model("llama", &json!({})), &Value::Null)).await;
    assert_eq!((&warned["allowed"], warned.get("status")), (&json!(true), None));
    assert_eq!(warned["warnings"], json!([admission::decision::UNKNOWN]));
    let deleted =
        webhook.ask(&client, &review("DELETE", &Value::Null, &model("llama", &json!({ "source": {} })))).await;
    assert_eq!(deleted, json!({ "uid": "question-1", "allowed": true }));
    webhook.shutdown.cancel();
    webhook.server.await.unwrap();
}

#[tokio::test]
async fn client_that_trusts_another_authority_has_no_connection() {
    let (webhook, other) = (Webhook::serve().await, Webhook::serve().await);
    webhook.keeper().look(Timestamp::now()).await.unwrap();
    other.keeper().look(Timestamp::now()).await.unwrap();
    let client = other.client();
    let url = format!("https://127.0.0.1:{}{}", webhook.address.port(), admission::PATH);
    assert!(client.post(url).send().await.unwrap_err().is_connect());
}

#[tokio::test]
async fn denied_model_hears_what_the_condition_says() {
    let webhook = Webhook::serve().await;
    webhook.keeper().look(Timestamp::now()).await.unwrap();
    let too_large = json!({ "serving": { "contextLength": 400_000 } });
    webhook.api.put("/apis/kindling.dev/v1alpha1/namespaces/models/localmodels/first", model("first", &too_large));
    let ready = json!({ "conditions": [{ "type": "Ready", "status": "True" }] });
    webhook.api.put(
        "/api/v1/nodes/spark-1",
        json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "spark-1" }, "status": ready }),
    );
    let memory = json!({
        "totalBytes": 24_u64 << 30, "availableBytes": 22_u64 << 30, "freeBytes": 22_u64 << 30,
        "freeInLargeBlocksBytes": 22_u64 << 30, "baselineBytes": 1 << 30, "swapTotalBytes": 0, "swapUsedBytes": 0,
        "floorStartBytes": 0, "floorRunBytes": 0,
    });
    let status =
        json!({ "measuredAt": Timestamp::now().to_string(), "agentAddress": "10.0.0.1:9402", "memory": memory });
    webhook.api.put(
        "/apis/kindling.dev/v1alpha1/nodeenvelopes/spark-1",
        json!({
            "apiVersion": "kindling.dev/v1alpha1", "kind": "NodeEnvelope", "spec": {}, "status": status,
            "metadata": { "name": "spark-1", "resourceVersion": "1" },
        }),
    );
    let (changed, _listener) = tokio::sync::mpsc::unbounded_channel();
    let wake = Arc::new(tokio::sync::Notify::new());
    let facts = Arc::new(FactsCache::new(Arc::new(FakeAgents::default()), Arc::clone(&wake)));
    let placement = Arc::new(Placement::new(webhook.api.client(), common::config(), facts, wake, changed));
    webhook.admission.follow(Arc::clone(&placement));
    for _ in 0..4 {
        placement.round().await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let condition = placement.outcome("uid-of-first", 0).unwrap().verdict.to_string();
    assert!(condition.starts_with("fits on no node: spark-1: "), "{condition}");

    let client = webhook.client();
    let denied = webhook.ask(&client, &review("CREATE", &model("llama", &too_large), &Value::Null)).await;
    assert_eq!(denied["status"]["message"], json!(condition));
    let small = model("llama", &json!({ "serving": { "contextLength": 4096 } }));
    // Known for another length only, and that is not certain to be too large: let in.
    let warned = webhook.ask(&client, &review("CREATE", &small, &Value::Null)).await;
    assert_eq!((&warned["allowed"], &warned["warnings"]), (&json!(true), &json!([admission::decision::UNKNOWN])));
    let larger = model("llama", &json!({ "serving": { "contextLength": 500_000 } }));
    let denied = webhook.ask(&client, &review("UPDATE", &larger, &small)).await;
    assert_eq!(denied["allowed"], json!(false), "{denied}");
}

#[tokio::test]
async fn certificate_is_exchanged_without_a_restart_and_shared_by_replicas() {
    let webhook = Webhook::serve().await;
    let (mut first, mut second) = (webhook.keeper(), webhook.keeper());
    // The client has the real clock, so it was made a while ago.
    let now = Timestamp::now();
    let made = now - SERVING_TIME * 3 / 4;
    first.look(made).await.unwrap();
    let (kept, client) = (webhook.secret(), webhook.client());
    webhook.api.take_writes();
    second.look(made).await.unwrap();
    assert_eq!(webhook.api.take_writes(), Vec::<String>::new(), "what the first made is used");

    second.look(now).await.unwrap();
    assert_eq!(webhook.api.take_writes(), ["PUT secrets/kindling-webhook-tls"]);
    let renewed = webhook.secret().data.unwrap();
    let kept = kept.data.unwrap();
    assert!(renewed["tls.crt"] != kept["tls.crt"] && renewed["ca.crt"] == kept["ca.crt"]);
    webhook.ask(&client, &review("CREATE", &model("llama", &json!({})), &Value::Null)).await;

    // Somebody took the bundle away, and the Secret with it.
    webhook.api.remove(SECRET);
    first.look(now).await.unwrap();
    let renewed = webhook.secret().data.unwrap();
    assert!(renewed["ca.crt"] != kept["ca.crt"]);
    assert_eq!(webhook.bundle().as_ref(), Some(&renewed["ca.crt"]));
    let review = review("CREATE", &model("llama", &json!({})), &Value::Null);
    webhook.ask(&webhook.client(), &review).await;
}

#[tokio::test]
async fn what_may_not_be_written_is_told_and_nothing_is_served() {
    let webhook = Webhook::serve().await;
    webhook.api.refuse("POST secrets", "no rights");
    let error = webhook.keeper().look(Timestamp::now()).await.unwrap_err().to_string();
    assert!(error.contains("Secret kindling-webhook-tls") && error.contains("no rights"), "{error}");
    assert_eq!(webhook.bundle(), None);
}

#[tokio::test]
async fn foreign_input_is_refused_and_the_next_question_answered() {
    let webhook = Webhook::serve().await;
    webhook.keeper().look(Timestamp::now()).await.unwrap();
    let client = webhook.client();
    let bodies: [&[u8]; 8] = [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b"{\"kind\":\"Pod\",\"apiVersion\":\"v1\"}",
        b"{\"kind\":\"AdmissionReview\",\"apiVersion\":\"admission.k8s.io/v1\"}",
        b"{\"kind\":\"AdmissionReview\",\"apiVersion\":\"admission.k8s.io/v1\",\"request\":{\"uid\":7}}",
        b"{\"kind\":\"AdmissionReview\",\"apiVersion\":\"admission.k8s.io/v1beta1\",\"request\":null}",
    ];
    for body in bodies {
        let (code, words) = webhook.post(&client, body.to_vec()).await;
        assert_eq!(code, StatusCode::BAD_REQUEST, "{words}");
        assert!(words.contains("AdmissionReview"), "{words}");
    }
    let nested = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
    assert_eq!(webhook.post(&client, nested).await.0, StatusCode::BAD_REQUEST);
    let long = vec![b' '; (1 << 20) + 1];
    assert_eq!(webhook.post(&client, long).await.0, StatusCode::PAYLOAD_TOO_LARGE);

    for object in [json!(7), json!({}), json!({ "spec": [] }), Value::Null] {
        let answer = webhook.ask(&client, &review("CREATE", &object, &object)).await;
        assert_eq!(answer["allowed"], json!(true));
        assert!(answer["warnings"][0].as_str().unwrap().contains("can't read the LocalModel"), "{answer}");
    }
    // No uid and no name yet, and texts that would break a header.
    let mut object = model("llama", &json!({}));
    object["metadata"] = json!({ "generateName": "llama-" });
    let answer = webhook.ask(&client, &review("CREATE", &object, &Value::Null)).await;
    assert_eq!(answer["allowed"], json!(true), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn body_that_does_not_end_is_given_up() {
    use tower::ServiceExt as _;

    let admission = Arc::new(Admission::new(common::config()));
    let endless = axum::body::Body::from_stream(futures::stream::pending::<Result<bytes::Bytes, std::io::Error>>());
    let request = http::Request::post(admission::PATH).body(endless).unwrap();
    let begun = tokio::time::Instant::now();
    let answer = admission::router(admission).oneshot(request).await.unwrap();
    assert_eq!(answer.status(), http::StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(begun.elapsed(), Duration::from_secs(2));
}
