//! Servers around a runtime: gRPC on a listener or in process, metrics over HTTP.

use std::time::Duration;

use axum::routing::get;
use hyper_util::rt::TokioIo;
use kindling_proto::FILE_DESCRIPTOR_SET;
use kindling_proto::v1::admin_server::AdminServer;
use kindling_proto::v1::inference_server::InferenceServer;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic_health::pb::health_server::HealthServer;

use crate::config::RuntimeConfig;
use crate::error::ServeError;
use crate::runtime::Runtime;
use crate::service::{AdminService, InferenceService};

/// Bytes of one request: more than a gateway takes from its clients, so that what it lets through is judged by its
/// tokens, not by its bytes.
const MAX_REQUEST_BYTES: usize = 64 * 1024 * 1024;
/// A client that does not answer pings for two of these is gone, and its requests with it.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// Bytes in flight on an in-process connection.
const DUPLEX_BYTES: usize = 256 * 1024;
/// Requests may end for so long once the memory is taken back: the machine is in trouble.
const REVOKED_DRAIN: Duration = Duration::from_secs(5);
/// How long connections may take to close once there are no requests.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a runtime listens.
#[derive(Debug)]
pub struct Listeners {
    /// gRPC: inference, admin, health, reflection.
    pub grpc: TcpListener,
    /// HTTP: `/metrics` and `/healthz`.
    pub metrics: Option<TcpListener>,
}

/// Starts a runtime and serves it until `shutdown`; running requests may then end.
///
/// # Errors
/// [`ServeError`] if the model cannot be loaded, stops working, or a server fails. The process should end then.
pub async fn serve(config: RuntimeConfig, listeners: Listeners, shutdown: CancellationToken) -> Result<(), ServeError> {
    Runtime::start(config).serve(listeners, shutdown).await
}

impl Runtime {
    /// Serves this runtime as [`serve`] does.
    ///
    /// # Errors
    /// As [`serve`].
    pub async fn serve(&self, listeners: Listeners, shutdown: CancellationToken) -> Result<(), ServeError> {
        let Listeners { grpc, metrics } = listeners;
        let closing = CancellationToken::new();
        let incoming = TcpIncoming::from(grpc).with_nodelay(Some(true));
        let grpc = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .add_routes(self.routes())
            .serve_with_incoming_shutdown(incoming, closing.clone().cancelled_owned());
        let mut grpc = tokio::spawn(async move { grpc.await.map_err(ServeError::from) });
        let mut metrics = self.serve_metrics(metrics, closing.clone());
        let revoked = self.shared().gate.revoked();
        let mut first = tokio::select! {
            () = shutdown.cancelled() => {
                tracing::info!("draining");
                self.drain(self.shared().config.drain_timeout).await;
                Ok(())
            }
            () = revoked.cancelled() => {
                tracing::warn!("draining, because the memory is taken back");
                self.drain(REVOKED_DRAIN).await;
                Err(ServeError::Revoked)
            }
            error = self.failed() => Err(error.into()),
            ended = &mut grpc => flatten(ended),
            ended = &mut metrics => flatten(ended),
        };
        closing.cancel();
        for server in [grpc, metrics] {
            first = first.and(close(server).await);
        }
        first
    }

    fn serve_metrics(
        &self,
        listener: Option<TcpListener>,
        closing: CancellationToken,
    ) -> JoinHandle<Result<(), ServeError>> {
        let router = self.metrics_router();
        tokio::spawn(async move {
            let Some(listener) = listener else {
                closing.cancelled().await;
                return Ok(());
            };
            let server = axum::serve(listener, router).with_graceful_shutdown(closing.cancelled_owned());
            server.await.map_err(ServeError::Metrics)
        })
    }

    /// All gRPC services, to be added to a server.
    pub fn routes(&self) -> Routes {
        let inference = InferenceServer::new(InferenceService::new(self.clone()));
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .expect("the generated descriptors should be valid");
        Routes::new(inference.max_decoding_message_size(MAX_REQUEST_BYTES))
            .add_service(AdminServer::new(AdminService::new(self.clone())))
            .add_service(HealthServer::new(self.health().service()))
            .add_service(reflection)
    }

    /// `/metrics` for Prometheus; `/healthz` answers as long as the process does.
    pub fn metrics_router(&self) -> axum::Router {
        let runtime = self.clone();
        let text = [("content-type", "text/plain; version=0.0.4")];
        let metrics = move || async move { (text, runtime.metrics_text()) };
        axum::Router::new().route("/metrics", get(metrics)).route("/healthz", get(|| async { "ok" }))
    }

    /// A client's channel to this runtime without any socket; connects when it is first used.
    pub fn connect_in_process(&self) -> Channel {
        let routes = self.routes();
        let connector = tower::service_fn(move |_| {
            let (client, server) = tokio::io::duplex(DUPLEX_BYTES);
            let incoming = tokio_stream::once(Ok::<_, std::io::Error>(server));
            tokio::spawn(Server::builder().add_routes(routes.clone()).serve_with_incoming(incoming));
            async { Ok::<_, std::io::Error>(TokioIo::new(client)) }
        });
        // The address only fills the requests' headers.
        Endpoint::from_static("http://kindling.in-process").connect_with_connector_lazy(connector)
    }
}

fn flatten(ended: Result<Result<(), ServeError>, tokio::task::JoinError>) -> Result<(), ServeError> {
    ended?
}

/// Waits a little for open connections, then closes them.
async fn close(mut server: JoinHandle<Result<(), ServeError>>) -> Result<(), ServeError> {
    if server.is_finished() {
        return Ok(());
    }
    match tokio::time::timeout(CLOSE_TIMEOUT, &mut server).await {
        Ok(ended) => flatten(ended),
        Err(_) => {
            server.abort();
            Ok(())
        }
    }
}
