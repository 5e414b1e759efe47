//! The runtimes behind a route: their gRPC channels, opened on first use and kept, which of them a request goes to, and
//! what they said about their model.

mod choice;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kindling_proto::v1::inference_client::InferenceClient;
use kindling_proto::v1::{GenerateRequest, GetModelInfoRequest, get_model_info_response::State};
use tonic::transport::{Channel, Endpoint};

use choice::conversation;

/// A runtime answers from memory, so this is long; it only keeps a model list from hanging on a dead one.
const INFO_TIMEOUT: Duration = Duration::from_secs(2);
/// A model's facts change only with its process, and a new process has a new channel.
/// Looking again now and then covers one that was restarted in its place.
const INFO_TTL: Duration = Duration::from_secs(60);
/// One response message: a delta, or a prompt's log-probabilities.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// The runtimes that serve a model, one or several. Cheap to clone.
#[derive(Clone)]
pub struct Backend {
    runtimes: Arc<[Runtime]>,
    max_model_len: Arc<Mutex<Option<(Instant, u32)>>>,
}

/// A runtime that can be asked. Clones share the connection and the count.
#[derive(Clone)]
pub struct Runtime {
    client: InferenceClient<Channel>,
    address: Arc<str>,
    in_flight: Arc<AtomicUsize>,
}

/// One request at a runtime; ends when it is dropped.
pub(crate) struct InFlight(Arc<AtomicUsize>);

impl Runtime {
    fn new(channel: Channel, address: &str) -> Self {
        let client = InferenceClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        Self { client, address: address.into(), in_flight: Arc::default() }
    }

    /// A runtime at `host:port`, connected when first asked. HTTP/2 pings find a peer that vanished without a word.
    ///
    /// # Errors
    /// If the address is none.
    pub fn at(endpoint: &str) -> Result<Self, tonic::transport::Error> {
        let channel = Endpoint::from_shared(format!("http://{endpoint}"))?
            .connect_timeout(Duration::from_secs(5))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(15))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true);
        Ok(Self::new(channel.connect_lazy(), endpoint))
    }

    /// A client to call; clones share the connection.
    pub(crate) fn client(&self) -> InferenceClient<Channel> {
        self.client.clone()
    }

    /// Counts a request until the answer is dropped.
    pub(crate) fn begin(&self) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(&self.in_flight))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Backend {
    /// A runtime behind a channel that the caller made: in-process for `kindling up`.
    pub fn new(channel: Channel) -> Self {
        Self::of(vec![Runtime::new(channel, "in this process")])
    }

    /// A runtime at `host:port`.
    ///
    /// # Errors
    /// If the address is none.
    pub fn at(endpoint: &str) -> Result<Self, tonic::transport::Error> {
        Ok(Self::of(vec![Runtime::at(endpoint)?]))
    }

    /// Runtimes that all serve the same model.
    pub fn of(runtimes: Vec<Runtime>) -> Self {
        Self { runtimes: runtimes.into(), max_model_len: Arc::default() }
    }

    /// The runtime that a request goes to, by its place among all; nothing if all of them are `tried`.
    pub(crate) fn choose(&self, request: &GenerateRequest, tried: &[usize]) -> Option<(usize, &Runtime)> {
        let of_runtime = |runtime: &Runtime| choice::Candidate {
            address: runtime.address.to_string(),
            in_flight: runtime.in_flight.load(Ordering::Relaxed),
        };
        let candidates: Vec<(usize, choice::Candidate)> = self
            .runtimes
            .iter()
            .enumerate()
            .filter(|(index, _)| !tried.contains(index))
            .map(|(index, runtime)| (index, of_runtime(runtime)))
            .collect();
        let index = choice::choose(&candidates, conversation(request))?;
        Some((index, &self.runtimes[index]))
    }

    /// The context that the model was started with, in tokens; `None` if the runtime does not say in time.
    pub(crate) async fn max_model_len(&self) -> Option<u32> {
        let cached = *self.max_model_len.lock().unwrap_or_else(PoisonError::into_inner);
        match cached {
            Some((at, tokens)) if at.elapsed() < INFO_TTL => return Some(tokens),
            _ => {}
        }
        let mut client = self.runtimes.first()?.client();
        let asked = tokio::time::timeout(INFO_TIMEOUT, client.get_model_info(GetModelInfoRequest {})).await;
        let info = asked.ok()?.ok()?.into_inner();
        let tokens = (info.max_model_len > 0).then_some(info.max_model_len)?;
        if info.state() == State::Ready {
            *self.max_model_len.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), tokens));
        }
        Some(tokens)
    }
}
