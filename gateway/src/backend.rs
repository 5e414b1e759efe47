//! One runtime behind a route: its gRPC channel, opened on first use and kept, and what it said about its model.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kindling_proto::v1::inference_client::InferenceClient;
use kindling_proto::v1::{GetModelInfoRequest, get_model_info_response::State};
use tonic::transport::{Channel, Endpoint};

/// A runtime answers from memory, so this is long; it only keeps a model list from hanging on a dead one.
const INFO_TIMEOUT: Duration = Duration::from_secs(2);
/// A model's facts change only with its process, and a new process has a new channel.
/// Looking again now and then covers one that was restarted in its place.
const INFO_TTL: Duration = Duration::from_secs(60);
/// One response message: a delta, or a prompt's log-probabilities.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// A runtime that can be asked. Cheap to clone.
#[derive(Clone)]
pub struct Backend {
    client: InferenceClient<Channel>,
    max_model_len: Arc<Mutex<Option<(Instant, u32)>>>,
}

impl Backend {
    /// A runtime behind a channel that the caller made: in-process for `kindling up`.
    pub fn new(channel: Channel) -> Self {
        let client = InferenceClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        Self { client, max_model_len: Arc::default() }
    }

    /// A runtime at `host:port`, connected when first asked. HTTP/2 pings find a peer that vanished without a word.
    ///
    /// # Errors
    /// If the address is none.
    pub fn at(endpoint: &str) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{endpoint}"))?
            .connect_timeout(Duration::from_secs(5))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(15))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true);
        Ok(Self::new(endpoint.connect_lazy()))
    }

    /// A client to call; clones share the connection.
    pub(crate) fn client(&self) -> InferenceClient<Channel> {
        self.client.clone()
    }

    /// The context that the model was started with, in tokens; `None` if the runtime does not say in time.
    pub(crate) async fn max_model_len(&self) -> Option<u32> {
        let cached = *self.max_model_len.lock().unwrap_or_else(PoisonError::into_inner);
        match cached {
            Some((at, tokens)) if at.elapsed() < INFO_TTL => return Some(tokens),
            _ => {}
        }
        let mut client = self.client();
        let asked = tokio::time::timeout(INFO_TIMEOUT, client.get_model_info(GetModelInfoRequest {})).await;
        let info = asked.ok()?.ok()?.into_inner();
        let tokens = (info.max_model_len > 0).then_some(info.max_model_len)?;
        if info.state() == State::Ready {
            *self.max_model_len.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), tokens));
        }
        Some(tokens)
    }
}
