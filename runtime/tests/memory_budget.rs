//! What a runtime may take: refused before anything is loaded, cut to fit, granted by an agent, taken back.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::fake_agent::FakeAgent;
use common::tiny_model;
use kindling_proto::v1::inference_client::InferenceClient;
use kindling_proto::v1::{GetModelInfoRequest, GetModelInfoResponse, Granted, Revoked, Waiting, hold_response};
use kindling_runtime::memory::{AgentGate, GateError, Measured, MemoryGate, Need};
use kindling_runtime::{Listeners, Runtime, RuntimeConfig, ServeError, error_chain};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const LONG: Duration = Duration::from_secs(20);

/// Notes what it is asked for.
#[derive(Debug, Default)]
struct Notes {
    asked: Mutex<Option<Need>>,
    measured: Mutex<Option<Measured>>,
}

impl MemoryGate for Notes {
    fn ask(&self, need: &Need) -> Result<(), GateError> {
        *self.asked.lock().unwrap() = Some(*need);
        Ok(())
    }

    fn waiting_for(&self) -> Option<String> {
        None
    }

    fn loaded(&self, measured: Measured) {
        *self.measured.lock().unwrap() = Some(measured);
    }

    fn revoked(&self) -> CancellationToken {
        CancellationToken::new()
    }
}

/// What the tiny model asks for and takes with this budget.
async fn taken(budget: Option<u64>, change: impl FnOnce(&mut RuntimeConfig)) -> Result<(Need, Measured), String> {
    let folder = tiny_model();
    let mut config = RuntimeConfig { memory_budget: budget, ..RuntimeConfig::new(&folder.0) };
    change(&mut config);
    let gate = Arc::new(Notes::default());
    let runtime = Runtime::start_gated(config, Arc::<Notes>::clone(&gate));
    runtime.ready().await.map_err(|error| error_chain(&error))?;
    let (need, measured) = (gate.asked.lock().unwrap().unwrap(), gate.measured.lock().unwrap().unwrap());
    Ok((need, measured))
}

#[tokio::test]
async fn what_is_taken_is_what_was_asked_for() {
    // Within a budget all of it is there at the start; a kernel that counts by pages sees every one of them.
    let (need, measured) = taken(Some(1 << 40), |_| {}).await.unwrap();
    assert_eq!(need.weights.0, measured.weights_bytes);
    assert_eq!(need.kv_cache.0, measured.kv_cache_bytes);
    assert_eq!(need.activations.0, measured.activations_bytes);
    assert!(measured.process_bytes > 0);
}

#[tokio::test]
async fn without_a_budget_a_large_cache_is_there_when_it_is_used() {
    let large = |config: &mut RuntimeConfig| config.kv_tokens = Some(1 << 18);
    let (need, measured) = taken(None, large).await.unwrap();
    assert!(measured.kv_cache_bytes < need.kv_cache.0 / 10, "{measured:?} of {need:?}");
    let (need, measured) = taken(Some(1 << 40), large).await.unwrap();
    assert_eq!(need.kv_cache.0, measured.kv_cache_bytes);
}

#[tokio::test]
async fn a_kv_cache_that_nobody_asked_for_is_made_to_fit_and_not_smaller_than_one_context() {
    let (free, _) = taken(None, |_| {}).await.unwrap();
    let least = free.resident().0 - free.kv_cache.0 / 2;
    let (cut, measured) = taken(Some(least), |_| {}).await.unwrap();
    assert!(cut.resident().0 <= least && cut.kv_cache.0 >= free.kv_cache.0 / 2, "{cut:?} of {least}");
    assert_eq!(measured.kv_cache_bytes, cut.kv_cache.0);
    let said = taken(Some(least - free.kv_cache.0 / 4), |_| {}).await.unwrap_err();
    assert!(said.contains("memory budget is") && said.contains("KV cache of"), "{said}");
}

#[tokio::test]
async fn a_kv_cache_that_was_asked_for_is_refused_with_every_term() {
    let (free, _) = taken(None, |_| {}).await.unwrap();
    let tokens = |config: &mut RuntimeConfig| config.kv_tokens = Some(1 << 20);
    let said = taken(Some(free.resident().0), tokens).await.unwrap_err();
    let expected = ["the model needs", "weights", "KV cache of 1048576 tokens", "activations", "process", "would fit"];
    assert!(expected.iter().all(|words| said.contains(words)), "{said}");
    let said = taken(Some(1 << 20), |_| {}).await.unwrap_err();
    assert!(said.contains("even without any KV cache it needs"), "{said}");
}

/// A runtime that serves, and asks an agent at this address.
struct Served {
    server: tokio::task::JoinHandle<Result<(), ServeError>>,
    address: SocketAddr,
    shutdown: CancellationToken,
    _folder: common::TempDir,
}

async fn serve_with(agent: SocketAddr) -> Served {
    let folder = tiny_model();
    let token_file = folder.0.join("token");
    std::fs::write(&token_file, "secret\n").unwrap();
    let gate = Arc::new(AgentGate::new(&agent.to_string(), &token_file).unwrap());
    let grpc = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = grpc.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let runtime = Runtime::start_gated(RuntimeConfig::new(&folder.0), gate);
    let token = shutdown.clone();
    let server = tokio::spawn(async move { runtime.serve(Listeners { grpc, metrics: None }, token).await });
    Served { server, address, shutdown, _folder: folder }
}

impl Served {
    async fn info(&self) -> GetModelInfoResponse {
        let mut client = InferenceClient::connect(format!("http://{}", self.address)).await.unwrap();
        client.get_model_info(GetModelInfoRequest {}).await.unwrap().into_inner()
    }

    async fn until(&self, what: &str, is: impl Fn(&GetModelInfoResponse) -> bool) {
        let deadline = tokio::time::Instant::now() + LONG;
        loop {
            let info = self.info().await;
            if is(&info) {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "not {what}: {info:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn waiting(why: &str) -> hold_response::Message {
    hold_response::Message::Waiting(Waiting { why: why.to_owned(), ..Waiting::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_loaded_before_the_agent_grants_it() {
    let mut agent = FakeAgent::start().await;
    let served = serve_with(agent.address()).await;
    let mut stream = agent.next_stream().await;
    assert_eq!(stream.token, "Bearer secret");
    let ask = stream.ask().await;
    assert!(ask.resident_bytes > 0 && ask.load_transient_bytes > 0 && ask.held_bytes == 0, "{ask:?}");
    stream.answer(waiting("needs 3 GiB, 1 GiB is available")).await;
    served.until("waiting", |info| info.waiting_for == "needs 3 GiB, 1 GiB is available").await;
    assert_eq!(served.info().await.loaded_bytes, 0);
    stream.answer(hold_response::Message::Granted(Granted::default())).await;
    let measured = stream.measured().await;
    assert!(measured.is_loaded && measured.weights_bytes > 0 && measured.process_bytes > 0, "{measured:?}");
    served.until("ready", |info| info.state() == kindling_proto::v1::get_model_info_response::State::Ready).await;
    served.shutdown.cancel();
    served.server.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_lost_its_agent_comes_back_and_says_what_it_holds() {
    let mut agent = FakeAgent::start().await;
    let served = serve_with(agent.address()).await;
    let mut stream = agent.next_stream().await;
    stream.ask().await;
    stream.answer(hold_response::Message::Granted(Granted::default())).await;
    stream.measured().await;
    drop(stream);
    let mut stream = agent.next_stream().await;
    assert!(stream.ask().await.held_bytes > 0);
    assert!(stream.measured().await.is_loaded);
    served.until("ready", |info| info.waiting_for.is_empty() && info.loaded_bytes > 0).await;
    served.shutdown.cancel();
    served.server.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_that_is_taken_back_ends_the_runtime_with_that_reason() {
    let mut agent = FakeAgent::start().await;
    let served = serve_with(agent.address()).await;
    let mut stream = agent.next_stream().await;
    stream.ask().await;
    stream.answer(hold_response::Message::Granted(Granted::default())).await;
    stream.measured().await;
    stream.answer(hold_response::Message::Revoked(Revoked { why: "the node runs out of memory".to_owned() })).await;
    let ended = tokio::time::timeout(LONG, served.server).await.unwrap().unwrap();
    assert!(matches!(ended, Err(ServeError::Revoked)), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_the_agent_refuses_ends_the_runtime() {
    let mut agent = FakeAgent::start().await;
    agent.refuse("a pod of another node");
    let served = serve_with(agent.address()).await;
    let ended = tokio::time::timeout(LONG, served.server).await.unwrap().unwrap();
    let said = error_chain(&ended.unwrap_err());
    assert!(said.contains("the node's agent refuses: a pod of another node"), "{said}");
}
