//! Asks the nodes' agents: what a model takes, and whether its weights are there. Bounded in time.

use std::path::PathBuf;
use std::time::Duration;

use futures::future::BoxFuture;
use kindling_proto::v1::agent_client::AgentClient;
use kindling_proto::v1::{
    DescribeModelRequest, DescribeModelResponse, EnsureModelRequest, EnsureModelResponse, KeepOnlyRequest,
    KeepOnlyResponse,
};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// To read the headers of a large model over a slow line.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(60);
/// An agent answers at once how far a download is.
const ENSURE_TIMEOUT: Duration = Duration::from_secs(5);
/// An agent looks through its cache and removes files before it answers.
const KEEP_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Who answers for the agents; tests put a fake here.
pub trait Agents: Send + Sync {
    /// Facts of a model, from the agent at `address`.
    fn describe(
        &self,
        address: String,
        question: DescribeModelRequest,
    ) -> BoxFuture<'_, Result<DescribeModelResponse, Status>>;

    /// Asks the agent at `address` how far a model is on its node; unless it is only to look, it brings it.
    fn ensure(
        &self,
        address: String,
        question: EnsureModelRequest,
    ) -> BoxFuture<'_, Result<EnsureModelResponse, Status>>;

    /// Tells the agent at `address` all that LocalModels name; it removes what none has named for long.
    fn keep_only(&self, address: String, list: KeepOnlyRequest) -> BoxFuture<'_, Result<KeepOnlyResponse, Status>>;
}

/// Asks over gRPC, with the operator's token for agents.
#[derive(Debug)]
pub struct GrpcAgents {
    token_file: PathBuf,
}

impl GrpcAgents {
    /// The token is read anew for every call: the kubelet renews it.
    pub fn new(token_file: PathBuf) -> Self {
        Self { token_file }
    }

    async fn client(&self, address: &str) -> Result<AgentClient<Channel>, Status> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|_| Status::unavailable(format!("the agent's address {address:?} is none")))?;
        let connected = endpoint.connect_timeout(CONNECT_TIMEOUT).connect().await;
        let channel = connected
            .map_err(|error| Status::unavailable(format!("the agent at {address} does not answer: {error}")))?;
        Ok(AgentClient::new(channel))
    }

    async fn request<T>(&self, message: T, timeout: Duration) -> Result<Request<T>, Status> {
        let unreadable =
            |error: std::io::Error| Status::unauthenticated(format!("read {}: {error}", self.token_file.display()));
        let token = tokio::fs::read_to_string(&self.token_file).await.map_err(unreadable)?;
        let bearer = format!("Bearer {}", token.trim())
            .parse()
            .map_err(|_| Status::unauthenticated(format!("{} holds no token", self.token_file.display())))?;
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", bearer);
        request.set_timeout(timeout);
        Ok(request)
    }
}

impl Agents for GrpcAgents {
    fn describe(
        &self,
        address: String,
        question: DescribeModelRequest,
    ) -> BoxFuture<'_, Result<DescribeModelResponse, Status>> {
        Box::pin(bounded(DESCRIBE_TIMEOUT, async move {
            let request = self.request(question, DESCRIBE_TIMEOUT).await?;
            Ok(self.client(&address).await?.describe_model(request).await?.into_inner())
        }))
    }

    fn ensure(
        &self,
        address: String,
        question: EnsureModelRequest,
    ) -> BoxFuture<'_, Result<EnsureModelResponse, Status>> {
        Box::pin(bounded(ENSURE_TIMEOUT, async move {
            let request = self.request(question, ENSURE_TIMEOUT).await?;
            Ok(self.client(&address).await?.ensure_model(request).await?.into_inner())
        }))
    }

    fn keep_only(&self, address: String, list: KeepOnlyRequest) -> BoxFuture<'_, Result<KeepOnlyResponse, Status>> {
        Box::pin(bounded(KEEP_TIMEOUT, async move {
            let request = self.request(list, KEEP_TIMEOUT).await?;
            Ok(self.client(&address).await?.keep_only(request).await?.into_inner())
        }))
    }
}

async fn bounded<T>(timeout: Duration, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    tokio::time::timeout(timeout, call)
        .await
        .unwrap_or_else(|_| Err(Status::unavailable(format!("the agent did not answer in {timeout:?}"))))
}
