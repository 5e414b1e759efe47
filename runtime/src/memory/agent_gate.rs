//! The gate of a cluster: the agent of this node, asked over a stream that lasts as long as the grant.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kindling_proto::v1::agent_client::AgentClient;
use kindling_proto::v1::hold_response::Message as Answer;
use kindling_proto::v1::{Ask, HoldRequest, HoldResponse, Measured as MeasuredMessage, hold_request};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status, Streaming};

use super::budget::Need;
use super::gate::{GateError, Measured, MemoryGate};
use super::process::process_bytes;

/// Between two tries to reach the agent.
const RETRY: Duration = Duration::from_secs(1);
/// An agent that does not answer pings for two of these is gone.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// How often the process is measured.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Smaller changes are no news, nor are those below 2 %.
const NEWS_BYTES: u64 = 8 << 20;
/// Messages that wait to be sent; there are three in a life.
const QUEUE: usize = 4;

/// Why no agent can be asked.
#[derive(Debug, thiserror::Error)]
pub enum AgentGateError {
    /// The address is none.
    #[error("{address:?} is no address of an agent; write HOST:PORT")]
    Address {
        /// As given.
        address: String,
    },
}

/// Asks the node's agent.
#[derive(Debug)]
pub struct AgentGate {
    link: Arc<Link>,
    handle: Handle,
}

/// What the stream's task and the runtime share.
#[derive(Debug)]
struct Link {
    endpoint: Endpoint,
    token_file: PathBuf,
    state: watch::Sender<State>,
    ask: Mutex<Option<Ask>>,
    measured: Mutex<Option<Measured>>,
    /// Sends on the stream that is open now.
    open: Mutex<Option<mpsc::Sender<HoldRequest>>>,
    revoked: CancellationToken,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Waiting(String),
    Granted,
    Refused(String),
}

impl AgentGate {
    /// Will ask the agent at `address` with the token in `token_file`, which is read anew for every try: the kubelet
    /// renews it. To be called within a tokio runtime.
    ///
    /// # Errors
    /// [`AgentGateError`] if the address is none.
    pub fn new(address: &str, token_file: &Path) -> Result<Self, AgentGateError> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|_| AgentGateError::Address { address: address.to_owned() })?
            .connect_timeout(Duration::from_secs(5))
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true);
        let link = Link {
            endpoint,
            token_file: token_file.to_owned(),
            state: watch::Sender::new(State::Waiting("the node's agent is being asked".to_owned())),
            ask: Mutex::default(),
            measured: Mutex::default(),
            open: Mutex::default(),
            revoked: CancellationToken::new(),
        };
        Ok(Self { link: Arc::new(link), handle: Handle::current() })
    }
}

impl MemoryGate for AgentGate {
    fn ask(&self, need: &Need) -> Result<(), GateError> {
        let ask = Ask { resident_bytes: need.resident().0, load_transient_bytes: need.load_transient.0, held_bytes: 0 };
        *lock(&self.link.ask) = Some(ask);
        self.handle.spawn(hold(Arc::clone(&self.link)));
        let mut states = self.link.state.subscribe();
        self.handle.block_on(async {
            let decided = states.wait_for(|state| !matches!(state, State::Waiting(_))).await;
            match decided.as_deref() {
                Ok(State::Refused(why)) => Err(GateError(why.clone())),
                _ => Ok(()),
            }
        })
    }

    fn waiting_for(&self) -> Option<String> {
        match (&*self.link.state.borrow(), &*lock(&self.link.ask)) {
            (State::Waiting(why), Some(_)) => Some(why.clone()),
            _ => None,
        }
    }

    fn loaded(&self, measured: Measured) {
        *lock(&self.link.measured) = Some(measured);
        if let Some(open) = &*lock(&self.link.open) {
            // If the stream is gone, the next one begins with it.
            let _ = open.try_send(measured_message(measured));
        }
    }

    fn revoked(&self) -> CancellationToken {
        self.link.revoked.clone()
    }
}

/// Keeps a stream to the agent open; a broken one is opened again, with what is held by then.
async fn hold(link: Arc<Link>) {
    loop {
        match stream_once(&link).await {
            Ok(()) => link.wait_because("the node's agent closed the stream"),
            Err(status) if is_final(&status) && !link.is_granted() => {
                let why = format!("the node's agent refuses: {}", status.message());
                link.state.send_replace(State::Refused(why));
                return;
            }
            Err(status) => {
                tracing::warn!(code = ?status.code(), message = status.message(), "the node's agent does not answer");
                link.wait_because(&format!("the node's agent does not answer: {}", status.message()));
            }
        }
        *lock(&link.open) = None;
        tokio::time::sleep(RETRY).await;
    }
}

/// What does not change by asking again.
fn is_final(status: &Status) -> bool {
    matches!(status.code(), Code::InvalidArgument | Code::PermissionDenied | Code::Unimplemented)
}

async fn stream_once(link: &Link) -> Result<(), Status> {
    let channel = link.endpoint.connect().await.map_err(|error| Status::unavailable(crate::error_chain(&error)))?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    for message in link.first_messages() {
        sender.try_send(message).map_err(|_| Status::internal("the queue should hold the first messages"))?;
    }
    *lock(&link.open) = Some(sender);
    let mut request = Request::new(ReceiverStream::new(receiver));
    request.metadata_mut().insert("authorization", bearer(&link.token_file).await?);
    let mut answers: Streaming<HoldResponse> = AgentClient::new(channel).hold(request).await?.into_inner();
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        let answer = tokio::select! {
            answer = answers.message() => answer?,
            _ = look.tick() => {
                link.measure_again();
                continue;
            }
        };
        let Some(answer) = answer else { return Ok(()) };
        match answer.message {
            Some(Answer::Granted(_)) => {
                link.state.send_replace(State::Granted);
            }
            Some(Answer::Waiting(waiting)) => link.wait_because(&waiting.why),
            Some(Answer::Revoked(revoked)) => {
                tracing::warn!(why = revoked.why, "the node's agent takes the memory back");
                link.revoked.cancel();
            }
            None => {}
        }
    }
}

async fn bearer(token_file: &Path) -> Result<MetadataValue<Ascii>, Status> {
    let unreadable = |error: std::io::Error| Status::unavailable(format!("read {}: {error}", token_file.display()));
    let token = tokio::fs::read_to_string(token_file).await.map_err(unreadable)?;
    let value = format!("Bearer {}", token.trim());
    value.parse().map_err(|_| Status::unavailable(format!("{} holds no token", token_file.display())))
}

impl Link {
    /// Tells what the process takes by now, if that is another figure: a KV cache is in memory once it is used.
    fn measure_again(&self) {
        let mut measured = lock(&self.measured);
        let (Some(last), Some(now)) = (measured.as_mut(), process_bytes()) else { return };
        if now.abs_diff(last.process_bytes) < NEWS_BYTES.max(last.process_bytes / 50) {
            return;
        }
        last.process_bytes = now;
        if let Some(open) = &*lock(&self.open) {
            // A full queue means that the last figure has not been sent yet.
            let _ = open.try_send(measured_message(*last));
        }
    }

    fn first_messages(&self) -> Vec<HoldRequest> {
        let is_granted = self.is_granted();
        let measured = *lock(&self.measured);
        let ask = lock(&self.ask).map(|ask| {
            let taken = measured.map_or(ask.resident_bytes, |measured| measured.process_bytes);
            Ask { held_bytes: if is_granted { taken } else { 0 }, ..ask }
        });
        let ask = ask.map(|ask| HoldRequest { message: Some(hold_request::Message::Ask(ask)) });
        ask.into_iter().chain(measured.map(measured_message)).collect()
    }

    fn is_granted(&self) -> bool {
        *self.state.borrow() == State::Granted
    }

    /// Who has memory keeps it.
    fn wait_because(&self, why: &str) {
        self.state.send_if_modified(|state| match state {
            State::Waiting(before) if before != why => {
                why.clone_into(before);
                true
            }
            _ => false,
        });
    }
}

fn measured_message(measured: Measured) -> HoldRequest {
    let Measured { weights_bytes, kv_cache_bytes, activations_bytes, process_bytes } = measured;
    let message = MeasuredMessage { weights_bytes, kv_cache_bytes, activations_bytes, process_bytes, is_loaded: true };
    HoldRequest { message: Some(hold_request::Message::Measured(message)) }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
