//! A node of its own for each test: a folder as `/proc`, a cluster that knows a few tokens, the real gRPC service.
#![allow(dead_code, missing_docs)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenReviewStatus, UserInfo};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kindling_agent::cache::Cache;
use kindling_agent::daemon::desk::{Desk, DeskHandle, Ledger, Snapshot};
use kindling_agent::daemon::downloads::{Downloads, Store};
use kindling_agent::daemon::gate::{Cluster, Gate};
use kindling_agent::daemon::memory::Reader;
use kindling_agent::daemon::service::{AgentService, ReadFacts, serve};
use kindling_agent::daemon::source::LocalSource;
use kindling_agent::daemon::watch::Floors;
use kindling_agent::hub::Hub;
use kindling_api::{Reservation, ReservationState};
use kindling_envelope::Bytes;
use kindling_proto::v1::agent_client::AgentClient;
use kindling_proto::v1::{DescribeModelResponse, ServingSettings};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Channel;
use tonic::{Request, Status};

pub const NODE: &str = "spark-1";
pub const OPERATOR: &str = "system:serviceaccount:kindling-system:kindling-operator";

/// Tokens are `pod:NAME`, `elsewhere:NAME`, `operator`, `person`, `other-audience`; every pod is of the model NAME.
pub struct FakeCluster;

impl Cluster for FakeCluster {
    fn review<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<TokenReviewStatus, kube::Error>> {
        let audience = if token == "other-audience" { "somebody-else" } else { "kindling-agent" };
        let user = match token.split_once(':') {
            Some((kind @ ("pod" | "elsewhere"), name)) => Some(pod_user(name, kind == "elsewhere")),
            None if token == "operator" || token == "other-audience" => Some(user(OPERATOR)),
            None if token == "person" => Some(user("ada")),
            _ => None,
        };
        let status = TokenReviewStatus {
            authenticated: Some(user.is_some()),
            audiences: user.is_some().then(|| vec![audience.to_owned()]),
            user,
            error: None,
        };
        Box::pin(async { Ok(status) })
    }

    fn pod<'a>(&'a self, namespace: &'a str, name: &'a str) -> BoxFuture<'a, Result<Option<Pod>, kube::Error>> {
        assert_eq!(namespace, "team");
        let owner = OwnerReference {
            kind: "LocalModel".to_owned(),
            name: name.to_owned(),
            uid: format!("uid-of-{name}"),
            ..OwnerReference::default()
        };
        let pod = Pod {
            metadata: ObjectMeta {
                uid: Some(if name == "replaced" { "newer".to_owned() } else { format!("pod-{name}") }),
                owner_references: (name != "orphan").then(|| vec![owner]),
                ..ObjectMeta::default()
            },
            spec: Some(PodSpec {
                node_name: Some(if name == "moved" { "spark-2".to_owned() } else { NODE.to_owned() }),
                ..PodSpec::default()
            }),
            status: None,
        };
        Box::pin(async move { Ok((pod.metadata.uid.as_deref() != Some("pod-gone")).then_some(pod)) })
    }
}

fn user(name: &str) -> UserInfo {
    UserInfo { username: Some(name.to_owned()), ..UserInfo::default() }
}

fn pod_user(name: &str, is_elsewhere: bool) -> UserInfo {
    let node = if is_elsewhere { "spark-2" } else { NODE };
    let extra = [("pod-name", name), ("pod-uid", &format!("pod-{name}")), ("node-name", node)];
    let extra = extra.map(|(key, value)| (format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]));
    UserInfo { extra: Some(extra.into()), ..user("system:serviceaccount:team:model") }
}

struct FakeFacts;

impl ReadFacts for FakeFacts {
    fn read(&self, source: LocalSource, _: ServingSettings) -> BoxFuture<'_, Result<DescribeModelResponse, Status>> {
        let architecture = format!("{source:?}");
        Box::pin(async { Ok(DescribeModelResponse { architecture, ..DescribeModelResponse::default() }) })
    }
}

/// One node with a running agent, 100 GiB and a floor of 8.
pub struct Node {
    pub folder: PathBuf,
    pub desk: DeskHandle,
    pub snapshots: watch::Receiver<Snapshot>,
    pub shutdown: CancellationToken,
    channel: Channel,
    _stop: DropGuard,
    _scratch: tempfile::TempDir,
}

impl Node {
    pub async fn start(name: &str) -> Self {
        let scratch = tempfile::Builder::new().prefix(&format!("kindling-agent-node-{name}-")).tempdir().unwrap();
        let folder = scratch.path().to_owned();
        std::fs::create_dir_all(folder.join("models/tiny")).unwrap();
        write_meminfo(&folder, 90);
        let reader = Reader::new(&folder).unwrap();
        let reading = reader.read().unwrap();
        let (desk, handle, snapshots) = Desk::new(reader, reading, Floors::above(Bytes::gib(8)));
        let shutdown = CancellationToken::new();
        let (cache, hub) = (Cache::at(folder.join("cache")), Hub::new("http://127.0.0.1:9", None));
        let (keep_unnamed, node_name) = (Duration::ZERO, NODE.to_owned());
        let store = Store { cache, hub, keep_unnamed, node_name, node: snapshots.clone() };
        let service = AgentService {
            gate: Gate::new(Arc::new(FakeCluster), NODE, OPERATOR),
            desk: handle.clone(),
            downloads: Arc::new(Downloads::new(store, shutdown.clone())),
            facts: Arc::new(FakeFacts),
            allowed_host_path_prefixes: vec![folder.join("models")],
            shutdown: shutdown.clone(),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(desk.run(shutdown.clone()));
        tokio::spawn(serve(listener, service));
        let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        let stop = shutdown.clone().drop_guard();
        Self { folder, desk: handle, snapshots, shutdown, channel, _stop: stop, _scratch: scratch }
    }

    pub fn client(&self) -> AgentClient<Channel> {
        AgentClient::new(self.channel.clone())
    }

    /// What is available from now on, in GiB.
    pub fn set_available(&self, gib: u64) {
        write_meminfo(&self.folder, gib);
    }

    pub async fn set_ledger(&self, reservations: Vec<Reservation>) {
        self.desk.ledger(Ledger { exists: true, reservations, published_baseline: None }).await;
    }

    /// Waits until the desk sees it so.
    pub async fn until(&mut self, what: &str, is_so: impl Fn(&Snapshot) -> bool) -> Snapshot {
        let seen = tokio::time::timeout(std::time::Duration::from_secs(10), self.snapshots.wait_for(|now| is_so(now)));
        seen.await.unwrap_or_else(|_| panic!("never: {what}")).unwrap().clone()
    }
}

fn write_meminfo(folder: &Path, available_gib: u64) {
    let available = available_gib << 20;
    let text = format!("MemTotal: {} kB\nMemFree: {available} kB\nMemAvailable: {available} kB\n", 100_u64 << 20);
    // whole or not at all: the agent reads whenever it likes
    std::fs::write(folder.join("meminfo.new"), text).unwrap();
    std::fs::rename(folder.join("meminfo.new"), folder.join("meminfo")).unwrap();
}

pub fn reservation(name: &str, gib: u64, state: ReservationState) -> Reservation {
    let long_ago = MicroTime(Timestamp::UNIX_EPOCH);
    Reservation {
        uid: format!("uid-of-{name}"),
        copy: 0,
        model: format!("team/{name}"),
        state,
        since: long_ago.clone(),
        made_at: long_ago,
        bytes: Bytes::gib(gib).0,
        load_transient_bytes: Bytes::gib(1).0,
        context_length: 4096,
        priority: 0,
        may_leave: true,
        fingerprint: String::new(),
        is_overridden: false,
        measured_bytes: None,
        available_at_release_bytes: None,
        pod_gone_at: None,
    }
}

/// A request with a token.
pub fn with_token<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}
