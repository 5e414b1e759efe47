//! The listening side: accepts connections, gives each its deadlines, and ends them gracefully.

mod stall;

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
use tokio_util::sync::CancellationToken;

use crate::activation::{Activation, UseWriter};
use crate::config::{Config, Timeouts};
use crate::discovery::{Discovery, Leases, Routes};
use crate::metrics::Metrics;
use crate::router::{self, App};
use stall::StallGuard;

/// After a failed accept (no file descriptors, most likely) there is nothing to do but wait for some to be freed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// For clients to be told that their requests end unfinished.
const LAST_WORDS: Duration = Duration::from_secs(2);

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
    let Config { discovery, metrics_listen, force_include_usage, max_body_bytes, max_held, timeouts } = config;
    let metrics = Arc::new(Metrics::new()?);
    let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs() as i64);
    let writer: Option<Arc<dyn UseWriter>> = match &discovery {
        Discovery::Cluster(cluster) => Some(Arc::new(Leases::new(cluster.client.clone()))),
        Discovery::Static(routes) => routes.use_writer(),
    };
    let activation = Arc::new(Activation::new(writer, max_held, timeouts.hold));
    let routes = Arc::new(Routes::follow(discovery));
    let closing = CancellationToken::new();
    let app = App {
        routes,
        activation,
        metrics: metrics.clone(),
        force_include_usage,
        max_body_bytes,
        timeouts,
        closing: closing.clone(),
        started,
    };
    let connections = GracefulShutdown::new();
    let api = accept(listener, router::api(app, metrics_listen.is_none()), timeouts, &connections);
    let scraped = async {
        // Without a port of their own they are served by the API's, and nothing ends here.
        match metrics_listen {
            None => std::future::pending::<Result<(), ServeError>>().await,
            Some(address) => {
                let listener =
                    TcpListener::bind(address).await.map_err(|source| ServeError::ListenMetrics { address, source })?;
                accept(listener, router::metrics_only(metrics), timeouts, &connections).await;
                Ok(())
            }
        }
    };
    tokio::select! {
        () = pin!(api) => {}
        result = pin!(scraped) => result?,
        () = pin!(shutdown) => {}
    }
    drain(connections, timeouts.drain, &closing).await;
    Ok(())
}

/// Waits for running requests, then tells their clients that there will be no more.
async fn drain(connections: GracefulShutdown, time: Duration, closing: &CancellationToken) {
    let mut ended = pin!(connections.shutdown());
    if tokio::time::timeout(time, &mut ended).await.is_err() {
        tracing::warn!("requests were still running when the drain time was up");
        closing.cancel();
        tokio::time::timeout(LAST_WORDS, ended).await.ok();
    }
}

async fn accept(listener: TcpListener, router: Router, timeouts: Timeouts, connections: &GracefulShutdown) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => converse(stream, router.clone(), timeouts, connections),
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn converse(stream: TcpStream, router: Router, timeouts: Timeouts, connections: &GracefulShutdown) {
    stream.set_nodelay(true).ok();
    let stream = StallGuard::new(stream, timeouts.write_stall);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(timeouts.header_read)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let watched = connections.watch(connection);
    tokio::spawn(async move {
        if let Err(error) = watched.await {
            tracing::debug!(%error, "connection ended early");
        }
    });
}
