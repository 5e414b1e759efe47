//! From gRPC to choices: runs the requests of one API call and merges their events into one sequence.
//!
//! Nothing is spawned: whoever drops a [`Generation`] drops the gRPC streams with it, and the runtime stops.

mod tokens;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, Stream, StreamExt, TryStreamExt};
use kindling_proto::v1::generate_request::Input;
use kindling_proto::v1::generate_response::Event as Wire;
use kindling_proto::v1::{self, FinishReason, GenerateRequest, GenerateResponse, TokenLogprob};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use kindling_proto::{REFUSED_FIELD, STRUCTURED_OUTPUT};

use crate::activation::InUse;
use crate::backend::Backend;
use crate::error::{ApiError, ErrorKind};
use crate::observe::Record;
use tokens::Tokens;
pub use tokens::Totals;

/// How many of one call's prompts the runtime sees at a time. More would only fill its queue.
const PROMPTS_AT_ONCE: usize = 4;
/// After the last finish only the trailers are to come. Reading them lets the runtime see an end and not a hang-up.
const TRAILERS: Duration = Duration::from_secs(1);

/// What happens to a choice. Choices are counted over all prompts: `prompt * n + index`.
#[derive(Debug)]
pub enum Event {
    /// A prompt was taken in.
    Accepted,
    /// More of a choice.
    Delta(Delta),
    /// The end of a choice. Totals come with the last one.
    Finished {
        /// Which choice.
        choice: u32,
        /// OpenAI's word for why.
        reason: &'static str,
        /// Counts over all choices, at the very end.
        totals: Option<Totals>,
    },
}

/// More of a choice.
#[derive(Debug)]
pub struct Delta {
    pub choice: u32,
    pub text: String,
    pub is_reasoning: bool,
    pub logprobs: Vec<TokenLogprob>,
}

/// What to run.
pub struct Job {
    /// Finds the model, and waits for it where it has to be loaded first.
    pub start: Starter,
    /// How long a model is waited for again that leaves before it says anything; nothing where it is not worth it.
    pub hold: Option<Duration>,
    /// One for each prompt.
    pub requests: Vec<GenerateRequest>,
    /// Choices for each prompt.
    pub n: u32,
    /// The request's field that a form came from.
    pub form_field: Option<&'static str>,
    /// For the whole of it.
    pub deadline: Duration,
    /// Cancelled when the gateway ends and can wait no longer.
    pub closing: CancellationToken,
    pub record: Arc<Record>,
}

/// How long a runtime that does not listen is tried, and how often.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
const CONNECT_PAUSE: Duration = Duration::from_millis(200);
/// How often a later prompt of a call asks for a place in a full queue.
const QUEUE_PAUSE: Duration = Duration::from_millis(250);

/// Finds a model.
pub type Starter = Box<dyn Fn() -> Starting + Send + Sync>;

/// A model that may have to be loaded first, with what keeps it in use.
pub type Starting = BoxFuture<'static, Result<(Backend, Option<InUse>), ApiError>>;

/// Before a model that left is looked for again: until then it is known to have left.
const AGAIN_PAUSE: Duration = Duration::from_millis(250);

type Responses = BoxStream<'static, Result<(u32, GenerateResponse), tonic::Status>>;

/// A running job.
pub struct Generation {
    /// Until the model is there.
    starting: Option<Starting>,
    start: Starter,
    requests: Vec<GenerateRequest>,
    /// Until when the model is looked for again, if it says nothing before.
    start_again_until: Option<Instant>,
    responses: Responses,
    _in_use: Option<InUse>,
    n: u32,
    unfinished: u32,
    deadline: Instant,
    closing: CancellationToken,
    /// The request's field that the prompts came from.
    prompt_field: &'static str,
    form_field: Option<&'static str>,
    tokens: Tokens,
}

impl Generation {
    /// Starts the job; the requests go out when the first event is asked for.
    pub fn start(job: Job) -> Self {
        let Job { start, hold, requests, n, form_field, deadline, closing, record } = job;
        let is_chat = requests.iter().any(|request| matches!(request.input, Some(Input::Chat(_))));
        let prompt_field = if is_chat { "messages" } else { "prompt" };
        let unfinished = requests.len() as u32 * n;
        let tokens = Tokens::new(record, unfinished);
        Self {
            starting: Some(start()),
            start,
            requests,
            start_again_until: hold.map(|hold| Instant::now() + hold),
            responses: stream::empty().boxed(),
            _in_use: None,
            n,
            unfinished,
            deadline: Instant::now() + deadline,
            closing,
            prompt_field,
            form_field,
            tokens,
        }
    }

    /// The next event; `None` once every choice is finished.
    ///
    /// # Errors
    /// The runtime's refusal or failure. It is final for all choices.
    pub async fn next(&mut self) -> Option<Result<Event, ApiError>> {
        if let Err(error) = self.start_responses().await {
            return Some(Err(error));
        }
        loop {
            if self.unfinished == 0 {
                tokio::time::timeout(TRAILERS, self.responses.next()).await.ok();
                return None;
            }
            let response = tokio::select! {
                () = self.closing.cancelled() => return Some(Err(shutting_down())),
                response = tokio::time::timeout_at(self.deadline, self.responses.next()) => response,
            };
            let response = match response {
                Err(_) => return Some(Err(took_too_long())),
                Ok(None) => return Some(Err(broken("it stopped before the end"))),
                Ok(Some(Err(status))) => {
                    let error = self.failure(status);
                    if !self.begin_again(&error) {
                        return Some(Err(error));
                    }
                    match self.start_responses().await {
                        Ok(()) => continue,
                        Err(error) => return Some(Err(error)),
                    }
                }
                Ok(Some(Ok(response))) => response,
            };
            self.start_again_until = None;
            match self.translate(response) {
                Ok(None) => {}
                Ok(Some(event)) => return Some(Ok(event)),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Waits for the model and sends the requests, once. Can be given up and called again.
    async fn start_responses(&mut self) -> Result<(), ApiError> {
        let Some(starting) = &mut self.starting else { return Ok(()) };
        let started = tokio::select! {
            () = self.closing.cancelled() => return Err(shutting_down()),
            started = tokio::time::timeout_at(self.deadline, starting) => started,
        };
        let (backend, in_use) = started.map_err(|_| took_too_long())??;
        self.starting = None;
        self._in_use = in_use;
        self.responses = stream::iter((0..).zip(self.requests.clone()))
            .flat_map_unordered(PROMPTS_AT_ONCE, move |(prompt, request)| responses(&backend, prompt, request))
            .boxed();
        Ok(())
    }

    /// A model that is loaded for requests may leave for another just when a request comes: as long as it has said
    /// nothing, the request waits for it to come back.
    fn begin_again(&mut self, error: &ApiError) -> bool {
        let is_worth_it = self.start_again_until.is_some_and(|until| Instant::now() < until);
        if error.kind != ErrorKind::ModelUnavailable || !is_worth_it {
            return false;
        }
        let again = (self.start)();
        self.responses = stream::empty().boxed();
        self.starting = Some(
            async move {
                tokio::time::sleep(AGAIN_PAUSE).await;
                again.await
            }
            .boxed(),
        );
        true
    }

    fn failure(&self, status: tonic::Status) -> ApiError {
        let is_form = status.metadata().get(REFUSED_FIELD).is_some_and(|field| field == STRUCTURED_OUTPUT);
        let error = ApiError::from(status);
        match self.form_field {
            Some(field) if is_form => ApiError::invalid(field, error.message),
            _ if error.kind == ErrorKind::ContextLengthExceeded => error.with_param(self.prompt_field),
            _ => error,
        }
    }

    fn translate(&mut self, (prompt, response): (u32, GenerateResponse)) -> Result<Option<Event>, ApiError> {
        match response.event {
            Some(Wire::Prompt(info)) => {
                self.tokens.prompt(&info);
                Ok(Some(Event::Accepted))
            }
            Some(Wire::Delta(delta)) => self.delta(prompt, delta),
            Some(Wire::Finish(finish)) => self.finish(prompt, finish).map(Some),
            // A newer runtime may say things that we don't know.
            None => Ok(None),
        }
    }

    fn delta(&mut self, prompt: u32, delta: v1::Delta) -> Result<Option<Event>, ApiError> {
        use v1::delta::Kind;
        let choice = self.choice(prompt, delta.index)?;
        let (text, is_reasoning) = match delta.kind {
            Some(Kind::Content(text)) => (text, false),
            Some(Kind::Reasoning(text)) => (text, true),
            Some(Kind::ToolCall(_)) => return Err(broken("it called a tool that nobody offered")),
            None => (String::new(), false),
        };
        self.tokens.delta(choice, delta.token_ids.len(), !text.is_empty());
        if text.is_empty() && delta.logprobs.is_empty() {
            return Ok(None);
        }
        Ok(Some(Event::Delta(Delta { choice, text, is_reasoning, logprobs: delta.logprobs })))
    }

    fn finish(&mut self, prompt: u32, finish: v1::Finish) -> Result<Event, ApiError> {
        let choice = self.choice(prompt, finish.index)?;
        let reason = match finish.reason() {
            FinishReason::Stop | FinishReason::Unspecified => "stop",
            FinishReason::Length => "length",
            FinishReason::ToolCalls => "tool_calls",
            FinishReason::Aborted => {
                let message = "the model's runtime ended the request before it was complete; try again";
                return Err(ApiError::new(ErrorKind::ModelUnavailable, message));
            }
        };
        self.tokens.finish(prompt, finish.usage.unwrap_or_default());
        self.unfinished -= 1;
        let totals = (self.unfinished == 0).then(|| self.tokens.totals());
        Ok(Event::Finished { choice, reason, totals })
    }

    fn choice(&self, prompt: u32, index: u32) -> Result<u32, ApiError> {
        if index < self.n { Ok(prompt * self.n + index) } else { Err(broken("it sent a choice that nobody asked for")) }
    }
}

fn responses(backend: &Backend, prompt: u32, request: GenerateRequest) -> Responses {
    let call = call(backend.clone(), prompt, request);
    stream::once(call).try_flatten().map_ok(move |response| (prompt, response)).boxed()
}

/// Sends a request, again and again while nobody listens: a runtime that has just become ready may not be routed on
/// every node yet, and one that was killed comes back. Of several runtimes each is tried before any is tried again.
///
/// If the runtime's queue is full, the first prompt's refusal is the client's answer. Later prompts wait for a place:
/// those before them fill the queue, and what was made of them must not be lost.
async fn call(
    backend: Backend,
    prompt: u32,
    request: GenerateRequest,
) -> Result<impl Stream<Item = Result<GenerateResponse, tonic::Status>>, tonic::Status> {
    let give_up = Instant::now() + CONNECT_WITHIN;
    loop {
        match call_any(&backend, &request).await {
            Err(status) if is_unsent(&status) && Instant::now() < give_up => tokio::time::sleep(CONNECT_PAUSE).await,
            Err(status) if prompt > 0 && is_full(&status) => tokio::time::sleep(QUEUE_PAUSE).await,
            other => return other,
        }
    }
}

/// Sends a request to the runtime that it belongs to, else to the next that takes it.
async fn call_any(
    backend: &Backend,
    request: &GenerateRequest,
) -> Result<impl Stream<Item = Result<GenerateResponse, tonic::Status>> + use<>, tonic::Status> {
    let mut tried = Vec::new();
    let mut refusal = tonic::Status::unavailable("the model has no runtime");
    while let Some((index, runtime)) = backend.choose(request, &tried) {
        let in_flight = runtime.begin();
        match runtime.client().generate(request.clone()).await {
            Err(status) if is_turned_away(&status) => refusal = status,
            Err(status) => return Err(status),
            // It counts for as long as the stream lives.
            Ok(response) => return Ok(response.into_inner().inspect(move |_| _ = &in_flight)),
        }
        tried.push(index);
    }
    Err(refusal)
}

/// Whether the runtime's queue is full; with a cause it would be the connection's trouble.
fn is_full(status: &tonic::Status) -> bool {
    status.code() == tonic::Code::ResourceExhausted && std::error::Error::source(status).is_none()
}

/// Whether this runtime did not take the request, so that another may: nobody listens there, its queue is full, it loads
/// or drains.
fn is_turned_away(status: &tonic::Status) -> bool {
    let is_its_answer = std::error::Error::source(status).is_none();
    is_unsent(status) || is_full(status) || (status.code() == tonic::Code::Unavailable && is_its_answer)
}

/// Whether no connection came about, so that the runtime cannot have seen the request.
fn is_unsent(status: &tonic::Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

fn took_too_long() -> ApiError {
    ApiError::new(ErrorKind::Timeout, "the request took longer than it may")
}

fn shutting_down() -> ApiError {
    ApiError::new(ErrorKind::ModelUnavailable, "the gateway is shutting down; try again")
}

fn broken(what: &str) -> ApiError {
    tracing::error!(what, "runtime broke the contract");
    ApiError::new(ErrorKind::Internal, format!("the model's runtime failed: {what}"))
}
