//! The listening side: accepts connections, gives each its deadlines, and ends them gracefully.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};

use crate::config::Config;
use crate::discovery::Routes;
use crate::metrics::Metrics;
use crate::router::{self, App};

/// After a failed accept (no file descriptors, most likely) there is nothing to do but wait for some to be freed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a gateway could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The metrics' address is taken or not ours.
    #[error("can't listen on {address} for metrics")]
    ListenMetrics {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Two metrics have one name: a mistake in this crate.
    #[error("can't register metrics")]
    RegisterMetrics(#[from] prometheus::Error),
}

/// Serves the API on `listener` until `shutdown` is done and the running requests are too, or their time is up.
///
/// # Errors
/// If the gateway can't start. Once it has, only `shutdown` ends it.
pub async fn serve(
    config: Config,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let Config { discovery, metrics_listen, force_include_usage, max_body_bytes, timeouts } = config;
    let metrics = Arc::new(Metrics::new()?);
    let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs() as i64);
    let routes = Arc::new(Routes::follow(discovery));
    let app = App { routes, metrics: metrics.clone(), force_include_usage, max_body_bytes, timeouts, started };
    let connections = GracefulShutdown::new();
    let api = accept(listener, router::api(app, metrics_listen.is_none()), timeouts.header_read, &connections);
    let scraped = async {
        match metrics_listen {
            None => std::future::pending().await,
            Some(address) => {
                let listener =
                    TcpListener::bind(address).await.map_err(|source| ServeError::ListenMetrics { address, source })?;
                accept(listener, router::metrics_only(metrics), timeouts.header_read, &connections).await;
                Ok(())
            }
        }
    };
    tokio::select! {
        () = pin!(api) => {}
        result = pin!(scraped) => result?,
        () = pin!(shutdown) => {}
    }
    if tokio::time::timeout(timeouts.drain, connections.shutdown()).await.is_err() {
        tracing::warn!("requests were still running when the drain time was up");
    }
    Ok(())
}

async fn accept(listener: TcpListener, router: Router, header_read: Duration, connections: &GracefulShutdown) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => converse(stream, router.clone(), header_read, connections),
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn converse(stream: TcpStream, router: Router, header_read: Duration, connections: &GracefulShutdown) {
    stream.set_nodelay(true).ok();
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_read)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let watched = connections.watch(connection);
    tokio::spawn(async move {
        if let Err(error) = watched.await {
            tracing::debug!(%error, "connection ended early");
        }
    });
}
