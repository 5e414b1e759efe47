//! A runtime without a model: a real gRPC server that plays a script for every request and sees who hangs up.
//!
//! Used by the tests and by the example server.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use kindling_proto::v1::generate_request::Input;
use kindling_proto::v1::generate_response::Event;
use kindling_proto::v1::inference_server::{Inference, InferenceServer};
use kindling_proto::v1::{
    Delta, Finish, FinishReason, GenerateRequest, GenerateResponse, GetLoadRequest, GetLoadResponse,
    GetModelInfoRequest, GetModelInfoResponse, PromptInfo, TokenLogprob, TokenizeRequest, TokenizeResponse, TopLogprob,
    Usage, delta, get_model_info_response,
};
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

/// The context of the model that isn't there.
pub const MAX_MODEL_LEN: u32 = 4096;

/// One thing that the runtime does.
#[derive(Clone)]
pub enum Step {
    /// Answers the call itself with an error.
    Refuse(Status),
    /// Never answers the call.
    Ignore,
    /// Sends an event.
    Send(Event),
    /// Ends the stream with an error.
    Fail(Status),
    /// Does nothing for a while.
    Wait(Duration),
    /// Sends nothing more and does not end.
    Hang,
}

type Script = dyn Fn(&GenerateRequest) -> Vec<Step> + Send + Sync;

/// The runtime; clones are the same one.
#[derive(Clone)]
pub struct FakeRuntime {
    script: Arc<Script>,
    /// Every request, in the order of arrival.
    pub requests: Arc<Mutex<Vec<GenerateRequest>>>,
    /// How many calls were dropped before their script was over.
    pub aborted: watch::Sender<u32>,
}

impl FakeRuntime {
    /// A runtime that plays what `script` says for a request.
    pub fn new(script: impl Fn(&GenerateRequest) -> Vec<Step> + Send + Sync + 'static) -> Self {
        Self { script: Arc::new(script), requests: Arc::default(), aborted: watch::Sender::new(0) }
    }

    /// Serves on a loopback port.
    pub async fn listen(&self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a loopback port should be free");
        let address = listener.local_addr().expect("a listener should have an address");
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let server = Server::builder().add_service(InferenceServer::new(self.clone())).serve_with_incoming(incoming);
        tokio::spawn(server);
        address
    }

    /// Serves on a loopback port and connects to it.
    pub async fn start(&self) -> Channel {
        let uri = format!("http://{}", self.listen().await);
        Endpoint::from_shared(uri).expect("an address should be a URI").connect_lazy()
    }
}

/// Counts as an abort unless it was told that all is over.
struct Watcher {
    aborted: watch::Sender<u32>,
    is_over: bool,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if !self.is_over {
            self.aborted.send_modify(|count| *count += 1);
        }
    }
}

/// The script as a stream.
pub struct Play {
    steps: Pin<Box<dyn Stream<Item = Result<GenerateResponse, Status>> + Send>>,
    watcher: Watcher,
}

impl Stream for Play {
    type Item = Result<GenerateResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.steps.as_mut().poll_next(cx);
        if let Poll::Ready(None | Some(Err(_))) = polled {
            self.watcher.is_over = true;
        }
        polled
    }
}

async fn play(step: Step) -> Option<Result<GenerateResponse, Status>> {
    match step {
        Step::Send(event) => Some(Ok(GenerateResponse { event: Some(event) })),
        Step::Fail(status) | Step::Refuse(status) => Some(Err(status)),
        Step::Wait(time) => {
            tokio::time::sleep(time).await;
            None
        }
        Step::Hang | Step::Ignore => std::future::pending().await,
    }
}

#[tonic::async_trait]
impl Inference for FakeRuntime {
    type GenerateStream = Play;

    async fn generate(&self, request: Request<GenerateRequest>) -> Result<Response<Play>, Status> {
        let request = request.into_inner();
        let steps = (self.script)(&request);
        self.requests.lock().expect("no test should panic with the lock").push(request);
        let mut watcher = Watcher { aborted: self.aborted.clone(), is_over: false };
        match steps.first() {
            Some(Step::Refuse(status)) => {
                watcher.is_over = true;
                Err(status.clone())
            }
            Some(Step::Ignore) => std::future::pending().await,
            _ => Ok(Response::new(Play { steps: stream::iter(steps).filter_map(play).boxed(), watcher })),
        }
    }

    async fn tokenize(&self, _: Request<TokenizeRequest>) -> Result<Response<TokenizeResponse>, Status> {
        Err(Status::unimplemented("the fake has no tokenizer"))
    }

    async fn get_model_info(&self, _: Request<GetModelInfoRequest>) -> Result<Response<GetModelInfoResponse>, Status> {
        Ok(Response::new(GetModelInfoResponse {
            state: get_model_info_response::State::Ready.into(),
            max_model_len: MAX_MODEL_LEN,
            ..Default::default()
        }))
    }

    async fn get_load(&self, _: Request<GetLoadRequest>) -> Result<Response<GetLoadResponse>, Status> {
        Ok(Response::new(GetLoadResponse::default()))
    }
}

/// The first event of every request.
pub fn prompt(prompt_tokens: u32) -> Step {
    Step::Send(Event::Prompt(PromptInfo {
        prompt_tokens,
        cached_tokens: 0,
        max_model_len: MAX_MODEL_LEN,
        max_tokens: 64,
    }))
}

/// More text for a choice, made of one token.
pub fn content(index: u32, text: &str) -> Step {
    Step::Send(Event::Delta(Delta {
        index,
        kind: Some(delta::Kind::Content(text.into())),
        token_ids: vec![1],
        logprobs: Vec::new(),
    }))
}

/// More of what the model thinks before it answers.
pub fn reasoning(index: u32, text: &str) -> Step {
    Step::Send(Event::Delta(Delta {
        index,
        kind: Some(delta::Kind::Reasoning(text.into())),
        token_ids: vec![1],
        logprobs: Vec::new(),
    }))
}

/// The end of a choice, with usage to recognise.
pub fn finish(index: u32, reason: FinishReason, completion_tokens: u32) -> Step {
    Step::Send(Event::Finish(Finish {
        index,
        reason: reason.into(),
        usage: Some(Usage {
            prompt_tokens: 11,
            cached_tokens: 3,
            completion_tokens,
            reasoning_tokens: 1,
            queue_seconds: 0.0,
            prefill_seconds: 0.016,
            decode_seconds: 0.25,
            ..Usage::default()
        }),
        ..Finish::default()
    }))
}

const TOKENS: [&[u8]; 6] = [b"Hello", b", ", b"world", b" \xf0\x9f", b"\x98\x80", b"!"];

/// Says the same to everyone, as long as it may, with log-probabilities if asked. A prompt with `slow` in it is
/// answered slowly, one with `hang` never completely, one with `fail` ends in an error; a very long one is refused.
pub fn greet(request: &GenerateRequest) -> Vec<Step> {
    let text = prompt_text(request);
    if text.len() > 20_000 {
        return vec![Step::Refuse(Status::out_of_range(format!(
            "maximum context length is {MAX_MODEL_LEN} tokens, the prompt has {}",
            text.len() / 4
        )))];
    }
    let allowed = request.stopping.as_ref().and_then(|stopping| stopping.max_tokens).unwrap_or(64) as usize;
    let num_tokens = TOKENS.len().min(allowed);
    let mut steps = vec![prompt(11)];
    for idx in 0..num_tokens {
        if text.contains("slow") {
            steps.push(Step::Wait(Duration::from_millis(200)));
        }
        steps.extend((0..request.n.max(1)).map(|index| token(index, idx, request.logprobs)));
    }
    if text.contains("hang") {
        steps.push(Step::Hang);
    }
    if text.contains("fail") {
        steps.push(Step::Fail(Status::internal("the device was lost")));
    }
    let reason = if num_tokens < TOKENS.len() { FinishReason::Length } else { FinishReason::Stop };
    steps.extend((0..request.n.max(1)).map(|index| finish(index, reason, num_tokens as u32)));
    steps
}

fn prompt_text(request: &GenerateRequest) -> String {
    match &request.input {
        Some(Input::Chat(chat)) => chat.messages.iter().map(|message| message.content.as_str()).collect(),
        Some(Input::Text(text)) => text.clone(),
        Some(Input::TokenIds(_)) | None => String::new(),
    }
}

/// Text comes when its bytes make characters; a token's log-probability comes at once.
fn token(index: u32, idx: usize, logprobs: Option<u32>) -> Step {
    let text = match idx {
        3 => String::from(" "),
        4 => String::from("😀"),
        _ => String::from_utf8_lossy(TOKENS[idx]).into_owned(),
    };
    let top = |rank: u32| TopLogprob {
        token_id: idx as u32 + rank,
        logprob: -0.25 - rank as f32,
        token: if rank == 0 { TOKENS[idx].to_vec() } else { format!("other{rank}").into_bytes() },
    };
    let logprobs = logprobs.map(|count| TokenLogprob {
        token_id: idx as u32,
        logprob: -0.25,
        token: TOKENS[idx].to_vec(),
        top: (0..count).map(top).collect(),
    });
    Step::Send(Event::Delta(Delta {
        index,
        kind: Some(delta::Kind::Content(text)),
        token_ids: vec![idx as u32],
        logprobs: logprobs.into_iter().collect(),
    }))
}
