//! A gateway in front of a runtime that only greets, to try clients against: `cargo run --example fake 8080`.

#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../tests/common/fake_runtime.rs"]
mod fake_runtime;

use std::time::Duration;

use kindling_gateway::{Availability, Backend, Config, Discovery, Route, StaticRoutes, serve};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let port = std::env::args().nth(1).map_or(Ok(8080), |port| port.parse::<u16>())?;
    let channel = fake_runtime::FakeRuntime::new(fake_runtime::greet).start().await;
    let route = |name: &str, availability| Route {
        name: name.into(),
        namespace: None,
        aliases: vec![format!("{name}-alias")],
        created: 0,
        availability,
        backend: Some(Backend::new(channel.clone())),
        on_demand: None,
    };
    let loading = Availability::Unavailable {
        message: "loading weights, 40 % done".into(),
        retry_after: Some(Duration::from_secs(1)),
    };
    let routes = StaticRoutes::new(vec![route("fake", Availability::Ready), route("fake-loading", loading)]);
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    tracing::info!(port, "listening");
    let shutdown = async {
        tokio::signal::ctrl_c().await.ok();
    };
    serve(Config::new(Discovery::Static(routes)), listener, shutdown).await?;
    Ok(())
}
