//! The NodeEnvelope as the cluster gets it, from an agent that runs whole against a small API server in memory.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use kindling_agent::daemon::gpu::ReadGpu;
use kindling_agent::daemon::service::ReadFacts;
use kindling_agent::daemon::source::LocalSource;
use kindling_agent::daemon::{AgentConfig, Readers, RunError, run_with};
use kindling_api::{NodeEnvelope, NodeGpu};
use kindling_envelope::Bytes;
use kindling_proto::v1::DescribeModelResponse;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const COLLECTION: &str = "/apis/kindling.dev/v1alpha1/nodeenvelopes";

/// NodeEnvelopes by name, and what was written. Lists are answered; watches stay open and say nothing.
#[derive(Clone, Default)]
struct FakeApi {
    objects: Arc<Mutex<BTreeMap<String, Value>>>,
    writes: Arc<Mutex<Vec<String>>>,
}

impl FakeApi {
    fn client(&self) -> Client {
        let fake = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let fake = fake.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await?;
                let query = parts.uri.query().unwrap_or_default();
                if parts.method == Method::GET && query.contains("watch=true") {
                    let silence = futures::stream::pending::<Result<bytes::Bytes, std::io::Error>>();
                    let body = axum::body::Body::from_stream(silence);
                    return Ok::<_, kube::Error>(Response::new(body));
                }
                Ok(fake.answer(&parts.method, parts.uri.path(), query, &body))
            }
        });
        Client::new(service, "default")
    }

    fn answer(&self, method: &Method, path: &str, query: &str, body: &[u8]) -> Response<axum::body::Body> {
        let mut objects = self.objects.lock().unwrap();
        let body: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let name = path.strip_prefix(COLLECTION).unwrap().trim_start_matches('/').trim_end_matches("/status");
        if method != Method::GET {
            self.writes.lock().unwrap().push(format!("{method} {}", &path[COLLECTION.len()..]));
        }
        if method == Method::GET {
            assert!(query.contains("fieldSelector=metadata.name"), "only its own: {query}");
            let items: Vec<_> = objects.values().cloned().collect();
            let list = json!({ "apiVersion": "kindling.dev/v1alpha1", "kind": "NodeEnvelopeList",
                "metadata": { "resourceVersion": "1" }, "items": items });
            return respond(StatusCode::OK, &list);
        }
        if method == Method::POST {
            assert_eq!(body["spec"], json!({}), "the spec is the operator's");
            objects.insert(body["metadata"]["name"].as_str().unwrap().to_owned(), body.clone());
            return respond(StatusCode::CREATED, &body);
        }
        assert!(path.ends_with("/status") && query.contains("fieldManager=kindling-agent"), "{path}?{query}");
        assert!(body.get("spec").is_none(), "the spec is the operator's");
        let Some(object) = objects.get_mut(name) else {
            let status = json!({ "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
                "code": 404, "reason": "NotFound", "message": "not found" });
            return respond(StatusCode::NOT_FOUND, &status);
        };
        object["status"] = body["status"].clone();
        respond(StatusCode::OK, object)
    }

    fn envelope(&self, name: &str) -> Option<NodeEnvelope> {
        let object = self.objects.lock().unwrap().get(name).cloned()?;
        Some(serde_json::from_value(object).unwrap())
    }
}

fn respond(code: StatusCode, body: &Value) -> Response<axum::body::Body> {
    Response::builder().status(code).body(axum::body::Body::from(serde_json::to_vec(body).unwrap())).unwrap()
}

struct NoFacts;

impl ReadFacts for NoFacts {
    fn read(
        &self,
        _source: LocalSource,
        _: kindling_proto::v1::ServingSettings,
    ) -> BoxFuture<'_, Result<DescribeModelResponse, tonic::Status>> {
        Box::pin(async { Err(tonic::Status::unimplemented("no facts here")) })
    }
}

/// Below a folder that goes when it is dropped.
fn config() -> (AgentConfig, tempfile::TempDir) {
    let scratch = tempfile::Builder::new().prefix("kindling-agent-publish-").tempdir().unwrap();
    let folder = scratch.path().to_owned();
    let config = AgentConfig {
        node: "spark-1".to_owned(),
        listen: ([127, 0, 0, 1], 0).into(),
        metrics_listen: ([127, 0, 0, 1], free_port()).into(),
        procfs_root: folder.clone(),
        sysfs_root: PathBuf::from("/a/folder/that/is/not/there"),
        cache: folder.join("cache"),
        keep_unnamed: Duration::from_secs(3600),
        allowed_host_path_prefixes: Vec::new(),
        operator_account: "system:serviceaccount:kindling-system:kindling-operator".to_owned(),
        floor_run: None,
        floor_start: None,
    };
    set_available(&config, 50);
    (config, scratch)
}

struct OldDriver;

impl ReadGpu for OldDriver {
    fn read(&self) -> BoxFuture<'_, NodeGpu> {
        Box::pin(async { an_old_driver() })
    }
}

fn an_old_driver() -> NodeGpu {
    NodeGpu {
        name: Some("NVIDIA GB10".to_owned()),
        compute_capability: Some("12.1".to_owned()),
        driver_cuda_version: Some("12.4".to_owned()),
        usable: false,
        reason: Some("the NVIDIA driver is too old".to_owned()),
    }
}

fn readers() -> Readers {
    Readers { facts: Arc::new(NoFacts), gpu: Arc::new(OldDriver) }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn set_available(config: &AgentConfig, gib: u64) {
    let text = format!("MemTotal: {0} kB\nMemFree: {1} kB\nMemAvailable: {1} kB\n", 100_u64 << 20, gib << 20);
    std::fs::write(config.procfs_root.join("meminfo.new"), text).unwrap();
    std::fs::rename(config.procfs_root.join("meminfo.new"), config.procfs_root.join("meminfo")).unwrap();
}

async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..1500 {
        if let Some(found) = look() {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_envelope_is_made_filled_and_kept_up_to_date() {
    let (api, (config, _scratch)) = (FakeApi::default(), config());
    let stop = CancellationToken::new();
    let agent = tokio::spawn(run_with(api.client(), config.clone(), readers(), stop.clone()));

    let status = until("a status", || api.envelope("spark-1")?.status).await;
    let writes = api.writes.lock().unwrap().clone();
    assert_eq!(writes, ["PATCH /spark-1/status", "POST ", "PATCH /spark-1/status"]);
    let memory = status.memory.unwrap();
    assert_eq!((memory.total_bytes, memory.available_bytes), (Bytes::gib(100).0, Bytes::gib(50).0));
    assert_eq!((memory.floor_run_bytes, memory.floor_start_bytes), (Bytes::gib(8).0, Bytes::gib(10).0));
    assert!(status.agent_address.unwrap().starts_with("127.0.0.1:") && status.measured_at.is_some());
    assert_eq!(status.display.unwrap().total, "100.0Gi");
    assert_eq!(status.gpu, Some(an_old_driver()));

    let metrics = format!("http://{}", config.metrics_listen);
    let get = async |path: &str| reqwest::get(format!("{metrics}{path}")).await.unwrap().text().await.unwrap();
    assert_eq!((get("/healthz").await, get("/readyz").await), ("ok\n".to_owned(), "ok\n".to_owned()));
    assert!(get("/metrics").await.contains("kindling_agent_memory_available_bytes 53687091200"));

    // pressure is told at once: three seconds to see it, and no ten to say it
    set_available(&config, 3);
    let pressed =
        until("pressure", || api.envelope("spark-1")?.status.filter(|now| now.pressure != Default::default()));
    let pressed = tokio::time::timeout(Duration::from_secs(6), pressed).await.expect("in time");
    assert_eq!(pressed.memory.unwrap().available_bytes, Bytes::gib(3).0);

    stop.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(5), agent).await.expect("it ends in time");
    ended.unwrap().unwrap();
}

#[tokio::test]
async fn what_cannot_work_is_refused_at_the_start() {
    let run = async |config| run_with(FakeApi::default().client(), config, readers(), CancellationToken::new()).await;
    let (config, _scratch) = config();
    let upside_down = AgentConfig { floor_start: Some(Bytes::gib(1)), ..config.clone() };
    assert!(matches!(run(upside_down).await, Err(RunError::Floors { .. })));
    let wildcard = AgentConfig { listen: ([0, 0, 0, 0], 0).into(), ..config.clone() };
    assert!(matches!(run(wildcard).await, Err(RunError::Wildcard(_))));
    let blind = AgentConfig { procfs_root: "/a/folder/that/is/not/there".into(), ..config.clone() };
    assert!(matches!(run(blind).await, Err(RunError::Memory(_))));
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = AgentConfig { listen: holder.local_addr().unwrap(), ..config.clone() };
    assert!(matches!(run(taken).await, Err(RunError::Listen { .. })));
}
