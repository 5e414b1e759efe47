//! `kindling gateway`: the OpenAI API in front of the models of a cluster.

use std::net::SocketAddr;

use anyhow::Context;
use kindling_gateway::{Cluster, Config, Discovery, serve};

use crate::{interrupt, logging, runtime};

/// Serve the OpenAI API for the models of a cluster.
#[derive(clap::Args)]
pub struct Args {
    /// Where the API is served.
    #[arg(long, default_value = "0.0.0.0:8080", env = "KINDLING_LISTEN")]
    listen: SocketAddr,
    /// Where /metrics is served [default: beside the API]
    #[arg(long, env = "KINDLING_METRICS_LISTEN")]
    metrics_listen: Option<SocketAddr>,
    /// Only LocalModels of this namespace [default: all]
    #[arg(long)]
    namespace: Option<String>,
    /// Send token counts in every stream, also to clients that do not ask for them.
    #[arg(long)]
    force_include_usage: bool,
}

/// Runs `kindling gateway`.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let Args { listen, metrics_listen, namespace, force_include_usage } = args;
    logging::start("info");
    let client = kube::Client::try_default().await.context("find the cluster")?;
    let discovery = Discovery::Cluster(Cluster { client, namespace });
    let config = Config { metrics_listen, force_include_usage, ..Config::new(discovery) };
    let shutdown = interrupt::token()?;
    Ok(serve(config, runtime::bind(listen).await?, shutdown.cancelled_owned()).await?)
}
