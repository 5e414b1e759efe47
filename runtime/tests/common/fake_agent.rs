//! An agent whose answers the test gives.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures::Stream;
use kindling_proto::v1::agent_server::{Agent, AgentServer};
use kindling_proto::v1::{
    Ask, DescribeModelRequest, DescribeModelResponse, EnsureModelRequest, EnsureModelResponse, HoldRequest,
    HoldResponse, KeepOnlyRequest, KeepOnlyResponse, Measured, hold_request, hold_response,
};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

pub struct FakeAgent {
    address: SocketAddr,
    streams: mpsc::Receiver<HeldStream>,
    refusal: Arc<Mutex<Option<String>>>,
}

/// One stream of a runtime. Dropping it ends it, as an agent that goes away does.
pub struct HeldStream {
    pub token: String,
    requests: Streaming<HoldRequest>,
    answers: mpsc::Sender<Result<HoldResponse, Status>>,
}

struct Service {
    streams: mpsc::Sender<HeldStream>,
    refusal: Arc<Mutex<Option<String>>>,
}

impl FakeAgent {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, streams) = mpsc::channel(4);
        let refusal = Arc::new(Mutex::default());
        let service = AgentServer::new(Service { streams: sender, refusal: Arc::clone(&refusal) });
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(TcpIncoming::from(listener)));
        Self { address, streams, refusal }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn refuse(&mut self, why: &str) {
        *self.refusal.lock().unwrap() = Some(why.to_owned());
    }

    pub async fn next_stream(&mut self) -> HeldStream {
        self.streams.recv().await.unwrap()
    }
}

impl HeldStream {
    async fn next(&mut self) -> hold_request::Message {
        self.requests.message().await.unwrap().unwrap().message.unwrap()
    }

    pub async fn ask(&mut self) -> Ask {
        match self.next().await {
            hold_request::Message::Ask(ask) => ask,
            other => panic!("{other:?}"),
        }
    }

    pub async fn measured(&mut self) -> Measured {
        match self.next().await {
            hold_request::Message::Measured(measured) => measured,
            other => panic!("{other:?}"),
        }
    }

    pub async fn answer(&self, message: hold_response::Message) {
        self.answers.send(Ok(HoldResponse { message: Some(message) })).await.unwrap();
    }
}

#[tonic::async_trait]
impl Agent for Service {
    type HoldStream = Pin<Box<dyn Stream<Item = Result<HoldResponse, Status>> + Send>>;

    async fn describe_model(
        &self,
        _request: Request<DescribeModelRequest>,
    ) -> Result<Response<DescribeModelResponse>, Status> {
        Err(Status::unimplemented("a runtime does not ask this"))
    }

    async fn ensure_model(
        &self,
        _request: Request<EnsureModelRequest>,
    ) -> Result<Response<EnsureModelResponse>, Status> {
        Err(Status::unimplemented("a runtime does not ask this"))
    }

    async fn keep_only(&self, _request: Request<KeepOnlyRequest>) -> Result<Response<KeepOnlyResponse>, Status> {
        Err(Status::unimplemented("a runtime does not say this"))
    }

    async fn hold(&self, request: Request<Streaming<HoldRequest>>) -> Result<Response<Self::HoldStream>, Status> {
        if let Some(why) = &*self.refusal.lock().unwrap() {
            return Err(Status::permission_denied(why));
        }
        let token = request.metadata().get("authorization").unwrap().to_str().unwrap().to_owned();
        let (answers, receiver) = mpsc::channel(4);
        let held = HeldStream { token, requests: request.into_inner(), answers };
        self.streams.send(held).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
