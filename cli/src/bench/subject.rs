//! Our side, started: the model in this process, and a gateway on loopback if it is asked over HTTP.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use kindling_gateway::{Availability, Backend, Config, Discovery, Route, StaticRoutes, Timeouts, serve};
use kindling_runtime::{RawModel, Runtime, RuntimeConfig, Summary};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::bench::http_side::HttpSide;
use crate::bench::in_process_side::InProcessSide;
use crate::bench::prompt::Tokenizer;
use crate::bench::raw_side::RawSide;
use crate::bench::side::Side;
use crate::runtime::bind;
use crate::up;

/// What the loopback gateway calls the model.
const MODEL_NAME: &str = "bench";

/// Which way our side is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The engine loop and gRPC, without a socket.
    InProcess,
    /// As another server is asked.
    Http,
    /// The backend's steps alone.
    Raw,
}

/// Ready to be measured.
pub struct Subject {
    /// To be asked.
    pub side: Side,
    /// To make prompts with.
    pub tokenizer: Tokenizer,
    /// What it is.
    pub summary: Summary,
    runtime: Option<Runtime>,
    gateway: Option<JoinHandle<Result<(), kindling_gateway::ServeError>>>,
    closing: CancellationToken,
}

impl Way {
    /// For the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::InProcess => "in-process",
            Self::Http => "http",
            Self::Raw => "raw",
        }
    }
}

impl Subject {
    /// Loads the model.
    ///
    /// # Errors
    /// If it cannot be loaded, or no loopback port can be had.
    pub async fn start(config: RuntimeConfig, way: Way, interrupted: &CancellationToken) -> anyhow::Result<Self> {
        let closing = CancellationToken::new();
        if way == Way::Raw {
            let model = tokio::task::spawn_blocking(move || RawModel::open(config)).await??;
            let summary = model.summary().clone();
            let side = RawSide::new(model, interrupted.clone());
            let tokenizer = Tokenizer::Raw(side.clone());
            return Ok(Self { side: Side::Raw(side), tokenizer, summary, runtime: None, gateway: None, closing });
        }
        let name = config.served_name.clone();
        let runtime = Runtime::start(config);
        up::load(&runtime, &name).await?;
        let summary = runtime.summary().context("a ready model should have a summary")?;
        let in_process = InProcessSide::new(runtime.connect_in_process());
        let tokenizer = Tokenizer::InProcess(in_process.clone());
        let (side, gateway) = if way == Way::Http {
            let (address, gateway) = start_gateway(&runtime, closing.clone()).await?;
            let side = HttpSide::connect(&format!("http://{address}"), Some(MODEL_NAME.to_owned())).await?;
            (Side::Http(side), Some(gateway))
        } else {
            (Side::InProcess(in_process), None)
        };
        Ok(Self { side, tokenizer, summary, runtime: Some(runtime), gateway, closing })
    }

    /// Ends what was started; requests that still run are ended.
    ///
    /// # Errors
    /// If the gateway failed.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.closing.cancel();
        if let Some(gateway) = self.gateway {
            gateway.await.context("run the gateway")??;
        }
        if let Some(runtime) = self.runtime {
            runtime.drain(Duration::ZERO).await;
        }
        Ok(())
    }
}

/// The gateway of `kindling up`, on a port that the system chooses.
async fn start_gateway(
    runtime: &Runtime,
    closing: CancellationToken,
) -> anyhow::Result<(SocketAddr, JoinHandle<Result<(), kindling_gateway::ServeError>>)> {
    let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let address = listener.local_addr()?;
    let routes = StaticRoutes::new(vec![Route {
        name: MODEL_NAME.to_owned(),
        namespace: None,
        aliases: Vec::new(),
        created: 0,
        availability: Availability::Ready,
        backend: Some(Backend::new(runtime.connect_in_process())),
        on_demand: None,
    }]);
    let mut config = Config::new(Discovery::Static(routes));
    config.timeouts = Timeouts { drain: Duration::ZERO, ..Timeouts::default() };
    Ok((address, tokio::spawn(serve(config, listener, closing.cancelled_owned()))))
}
