//! The agent's gRPC service: `Hold` for runtimes of this node, `DescribeModel`, `EnsureModel` and `KeepOnly` for the operator.

mod hold;
pub mod messages;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use kindling_proto::v1::agent_server::{Agent, AgentServer};
use kindling_proto::v1::{
    DescribeModelRequest, DescribeModelResponse, EnsureModelRequest, EnsureModelResponse, HoldRequest, HoldResponse,
    KeepOnlyRequest, KeepOnlyResponse, ServingSettings,
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::desk::DeskHandle;
use super::downloads::Downloads;
use super::gate::Gate;
use super::source::{self, LocalSource};

/// Answers that one runtime may leave unread before its grant ends.
const UNREAD: usize = 16;
/// A peer that is gone without a word is found out by this.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// How long streams may take to end when the agent ends.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Reads what a model is, from its headers.
pub trait ReadFacts: Send + Sync {
    /// Facts of a model that is served so; errors are what the caller gets.
    fn read(
        &self,
        source: LocalSource,
        serving: ServingSettings,
    ) -> BoxFuture<'_, Result<DescribeModelResponse, Status>>;
}

/// See the module.
pub struct AgentService {
    /// Who may call.
    pub gate: Gate,
    /// Who decides about memory.
    pub desk: DeskHandle,
    /// Who fills the cache.
    pub downloads: Arc<Downloads>,
    /// Who knows models.
    pub facts: Arc<dyn ReadFacts>,
    /// Below these folders lie models that need no cache.
    pub allowed_host_path_prefixes: Vec<PathBuf>,
    /// Ends all streams.
    pub shutdown: CancellationToken,
}

#[tonic::async_trait]
impl Agent for AgentService {
    async fn describe_model(
        &self,
        request: Request<DescribeModelRequest>,
    ) -> Result<Response<DescribeModelResponse>, Status> {
        self.gate.operator(request.metadata()).await?;
        let DescribeModelRequest { source, serving } = request.into_inner();
        let source = source::check(source, &self.allowed_host_path_prefixes)?;
        self.facts.read(source, serving.unwrap_or_default()).await.map(Response::new)
    }

    async fn ensure_model(
        &self,
        request: Request<EnsureModelRequest>,
    ) -> Result<Response<EnsureModelResponse>, Status> {
        self.gate.operator(request.metadata()).await?;
        let EnsureModelRequest { source, look_only } = request.into_inner();
        match source::check(source, &self.allowed_host_path_prefixes)? {
            LocalSource::Hub { source, files } if look_only => self.downloads.look(&source, &files).map(Response::new),
            LocalSource::Hub { source, files } => self.downloads.ensure(&source, &files).map(Response::new),
            LocalSource::Path(path) => messages::present_path(&path).map(Response::new),
        }
    }

    async fn keep_only(&self, request: Request<KeepOnlyRequest>) -> Result<Response<KeepOnlyResponse>, Status> {
        self.gate.operator(request.metadata()).await?;
        self.downloads.keep_only(request.into_inner()).await.map(Response::new)
    }

    type HoldStream = ReceiverStream<Result<HoldResponse, Status>>;

    async fn hold(&self, request: Request<Streaming<HoldRequest>>) -> Result<Response<Self::HoldStream>, Status> {
        let pod = self.gate.model_pod(request.metadata()).await?;
        let (answers, stream) = tokio::sync::mpsc::channel(UNREAD);
        let held = hold::hold(pod, request.into_inner(), answers, self.desk.clone());
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move { shutdown.run_until_cancelled_owned(held).await });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// Serves until the token is cancelled.
///
/// # Errors
/// If the sockets fail.
pub async fn serve(listener: TcpListener, service: AgentService) -> Result<(), tonic::transport::Error> {
    let shutdown = service.shutdown.clone();
    let server = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_service(AgentServer::new(service))
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), shutdown.clone().cancelled_owned());
    tokio::select! {
        result = server => result,
        () = async { shutdown.cancelled().await; tokio::time::sleep(LAST_WORDS).await } => Ok(()),
    }
}
