//! HTTPS for the webhook: one certificate, exchanged without a restart.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// For a client to agree on keys.
const HANDSHAKE: Duration = Duration::from_secs(2);
/// For the head of a request, also the next one on a connection that is kept.
const HEADER: Duration = Duration::from_secs(30);
/// The API servers keep a few connections each; whoever else comes waits.
const MAX_CONNECTIONS: usize = 64;
/// After a failed accept there is nothing to do but wait.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The certificate that is served now; none at first, and every handshake fails until there is one.
#[derive(Debug, Default)]
pub struct Served(RwLock<Option<Arc<CertifiedKey>>>);

impl Served {
    /// From now on this one.
    pub fn exchange(&self, key: Arc<CertifiedKey>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(key);
    }
}

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How TLS is spoken.
///
/// # Errors
/// If the provider of its arithmetic has none of the protocol's versions.
pub fn server_config(served: Arc<Served>) -> Result<ServerConfig, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions()?.with_no_client_auth();
    let mut config = builder.with_cert_resolver(served);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Serves until the token is cancelled; then answers what was asked.
pub async fn serve(listener: TcpListener, tls: ServerConfig, router: Router, shutdown: CancellationToken) {
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let (room, connections) = (Arc::new(Semaphore::new(MAX_CONNECTIONS)), TaskTracker::new());
    loop {
        let next = async {
            let place = Arc::clone(&room).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, stream) = tokio::select! {
            () = shutdown.cancelled() => break,
            (place, accepted) = next => match accepted {
                Ok((stream, _)) => (place, stream),
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection to the webhook failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let (acceptor, router, shutdown) = (acceptor.clone(), router.clone(), shutdown.clone());
        connections.spawn(async move {
            converse(stream, acceptor, router, shutdown).await;
            drop(place);
        });
    }
    connections.close();
    if tokio::time::timeout(HANDSHAKE, connections.wait()).await.is_err() {
        tracing::debug!("connections to the webhook end unfinished");
    }
}

async fn converse(stream: TcpStream, acceptor: TlsAcceptor, router: Router, shutdown: CancellationToken) {
    stream.set_nodelay(true).ok();
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "no TLS with a client of the webhook"),
        Err(_) => return tracing::debug!("a client of the webhook is silent"),
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the webhook ended early");
    }
}
