//! The nodes' agents: measure the played machines into their NodeEnvelopes, and answer what the operator asks over gRPC.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use kindling_proto::v1::agent_server::{Agent, AgentServer};
use kindling_proto::v1::ensure_model_response::State;
use kindling_proto::v1::model_source::Source;
use kindling_proto::v1::{
    CacheLayers, DescribeModelRequest, DescribeModelResponse, EnsureModelRequest, EnsureModelResponse, HoldRequest,
    HoldResponse, KeepOnlyRequest, KeepOnlyResponse, ModelSource, PlannedActivations, cache_layers,
};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

use crate::machine::MIB;

/// In the name of a repository: the agents' first answer about it is that the hub does not answer; a node that was not
/// told to bring it has nothing.
pub const LATE: &str = "-late";
pub const ABSENT: &str = "-absent";
/// So long a download takes.
const DOWNLOAD: Duration = Duration::from_millis(1200);

/// The weights of a repository, by its name: `played/NAME-wMIB`.
pub fn weights(name: &str) -> u64 {
    let digits = name.split("-w").nth(1).unwrap_or_default();
    let digits: String = digits.chars().take_while(char::is_ascii_digit).collect();
    digits.parse::<u64>().unwrap_or_else(|_| panic!("{name} says no size")) * MIB
}

/// What one node's agent has in its cache.
#[derive(Default)]
struct Played(Mutex<Cache>);

#[derive(Default)]
struct Cache {
    asked_once: BTreeSet<String>,
    brought_at: BTreeMap<String, Instant>,
}

/// Serves the agent of a node; the answer is its address, and it ends with its task.
pub async fn serve() -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let server = tonic::transport::Server::builder().add_service(AgentServer::new(Played::default()));
    let serving = server.serve_with_incoming(TcpListenerStream::new(listener));
    (address, tokio::spawn(async { serving.await.expect("an agent's server") }))
}

impl Played {
    fn with<T>(&self, look: impl FnOnce(&mut Cache) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn repository(source: Option<ModelSource>) -> Result<String, Status> {
    match source.and_then(|source| source.source) {
        Some(Source::Hub(hub)) => Ok(hub.repo),
        _ => Err(Status::invalid_argument("only repositories are played")),
    }
}

#[tonic::async_trait]
impl Agent for Played {
    async fn describe_model(
        &self,
        request: Request<DescribeModelRequest>,
    ) -> Result<Response<DescribeModelResponse>, Status> {
        let repo = repository(request.into_inner().source)?;
        if repo.contains(LATE) && self.with(|cache| cache.asked_once.insert(repo.clone())) {
            return Err(Status::unavailable("the hub does not answer"));
        }
        let bytes = weights(&repo);
        let full = cache_layers::Full { kv_heads: 8, head_dim: 128 };
        Ok(Response::new(DescribeModelResponse {
            architecture: "LlamaForCausalLM".to_owned(),
            parameters: bytes,
            quantization: "Q8_0".to_owned(),
            stored_weight_bytes: bytes,
            resident_weight_bytes: bytes,
            largest_tensor_bytes: MIB,
            vocabulary: 1000,
            max_context: 131_072,
            cache_layers: vec![CacheLayers { layers: 16, kind: Some(cache_layers::Kind::Full(full)) }],
            activations: Some(PlannedActivations::default()),
            ..DescribeModelResponse::default()
        }))
    }

    async fn ensure_model(
        &self,
        request: Request<EnsureModelRequest>,
    ) -> Result<Response<EnsureModelResponse>, Status> {
        let EnsureModelRequest { source, look_only } = request.into_inner();
        let repo = repository(source)?;
        let state = self.with(|cache| {
            if !repo.contains(ABSENT) {
                return State::Present;
            }
            if !look_only {
                cache.brought_at.entry(repo.clone()).or_insert_with(Instant::now);
            }
            match cache.brought_at.get(&repo) {
                None => State::Absent,
                Some(at) if at.elapsed() < DOWNLOAD => State::Downloading,
                Some(_) => State::Present,
            }
        });
        Ok(Response::new(EnsureModelResponse { state: state.into(), ..EnsureModelResponse::default() }))
    }

    async fn keep_only(&self, _: Request<KeepOnlyRequest>) -> Result<Response<KeepOnlyResponse>, Status> {
        Ok(Response::new(KeepOnlyResponse::default()))
    }

    type HoldStream = tokio_stream::Empty<Result<HoldResponse, Status>>;

    async fn hold(&self, _: Request<Streaming<HoldRequest>>) -> Result<Response<Self::HoldStream>, Status> {
        Err(Status::unimplemented("no pod of this story runs"))
    }
}
