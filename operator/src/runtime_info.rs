//! Asks a model's runtime about itself, within a bounded time.

use std::net::IpAddr;
use std::time::Duration;

use futures::future::BoxFuture;
use kindling_api::GRPC_PORT;
use kindling_proto::v1::inference_client::InferenceClient;
use kindling_proto::v1::{GetModelInfoRequest, GetModelInfoResponse};
use tonic::transport::Endpoint;

/// One question, connection included: reconcile must not be held up by a hung runtime.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Who answers for the runtimes; tests put a fake here.
pub trait RuntimeInfo: Send + Sync {
    /// What the runtime at this address says about its model; `None` if it does not answer in time.
    fn model_info(&self, address: IpAddr) -> BoxFuture<'_, Option<GetModelInfoResponse>>;
}

/// Asks over gRPC.
#[derive(Debug, Default)]
pub struct GrpcRuntimeInfo;

impl RuntimeInfo for GrpcRuntimeInfo {
    fn model_info(&self, address: IpAddr) -> BoxFuture<'_, Option<GetModelInfoResponse>> {
        Box::pin(async move {
            match tokio::time::timeout(TIMEOUT, ask(address)).await {
                Ok(Ok(info)) => Some(info),
                Ok(Err(error)) => {
                    tracing::debug!(%address, %error, "runtime does not answer yet");
                    None
                }
                Err(_) => None,
            }
        })
    }
}

async fn ask(address: IpAddr) -> Result<GetModelInfoResponse, tonic::Status> {
    let uri = format!("http://{}", std::net::SocketAddr::new(address, GRPC_PORT));
    let endpoint = Endpoint::from_shared(uri).map_err(|error| tonic::Status::internal(error.to_string()))?;
    let channel = endpoint.connect().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
    Ok(InferenceClient::new(channel).get_model_info(GetModelInfoRequest {}).await?.into_inner())
}
