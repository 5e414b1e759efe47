//! `kindling.v1.Inference`.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::Arc;
use std::time::Instant;

use kindling_engine::Request as EngineRequest;
use kindling_proto::v1::get_model_info_response::State;
use kindling_proto::v1::inference_server::Inference;
use kindling_proto::v1::{
    GenerateRequest, GetLoadRequest, GetLoadResponse, GetModelInfoRequest, GetModelInfoResponse, MemoryTerms,
    PromptInfo, TokenizeRequest, TokenizeResponse, tokenize_request,
};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use crate::engine_loop::{Command, Submission};
use crate::grammar::{Form, Grammar, Grammars};
use crate::live_request::Arrival;
use crate::memory::process_bytes;
use crate::metrics::Metrics;
use crate::outbox::{Inbox, channel};
use crate::prompt::Prompt;
use crate::reasoning::Reading;
use crate::refusal::Refusal;
use crate::runtime::Runtime;
use crate::shared::{Phase, Shared};
use crate::{prompt, validate};

/// Calls of `Tokenize` that work at a time; more wait.
const MAX_TOKENIZING: usize = 4;

/// Answers for one runtime.
pub struct InferenceService {
    runtime: Runtime,
    tokenizing: Arc<Semaphore>,
}

impl InferenceService {
    /// For this runtime.
    pub fn new(runtime: Runtime) -> Self {
        Self { runtime, tokenizing: Arc::new(Semaphore::new(MAX_TOKENIZING)) }
    }
}

#[tonic::async_trait]
impl Inference for InferenceService {
    type GenerateStream = Inbox;

    async fn generate(&self, request: Request<GenerateRequest>) -> Result<Response<Inbox>, Status> {
        Ok(Response::new(generate(&self.runtime, request.into_inner()).await?))
    }

    async fn tokenize(&self, request: Request<TokenizeRequest>) -> Result<Response<TokenizeResponse>, Status> {
        let model = self.runtime.shared().ready_model()?;
        let TokenizeRequest { input, add_special_tokens } = request.into_inner();
        let add_special = add_special_tokens.unwrap_or(true);
        let max_model_len = saturating(model.max_model_len);
        // A place of its own, held until the work is done: clients that ask and hang up cannot pile up work.
        let permit = Arc::clone(&self.tokenizing).acquire_owned().await;
        let permit = permit.map_err(|error| Status::internal(error.to_string()))?;
        let token_ids = blocking(move || {
            let _permit = permit;
            match input {
                None => Err(Refusal::EmptyPrompt),
                Some(tokenize_request::Input::Text(text)) => prompt::text_tokens(&model, &text, add_special),
                Some(tokenize_request::Input::Chat(chat)) => {
                    prompt::chat_prompt(&model, &chat).map(|prompt| prompt.tokens)
                }
            }
        })
        .await??;
        Ok(Response::new(TokenizeResponse { token_ids, max_model_len }))
    }

    async fn get_model_info(
        &self,
        _request: Request<GetModelInfoRequest>,
    ) -> Result<Response<GetModelInfoResponse>, Status> {
        Ok(Response::new(model_info(self.runtime.shared())?))
    }

    async fn get_load(&self, _request: Request<GetLoadRequest>) -> Result<Response<GetLoadResponse>, Status> {
        let shared = self.runtime.shared();
        let load = shared.load();
        let num_waiting = shared.admission.num_sequences().saturating_sub(load.num_running);
        Ok(Response::new(GetLoadResponse {
            requests_running: saturating(load.num_running),
            requests_waiting: saturating(num_waiting),
            kv_blocks_used: saturating(load.blocks_used),
            kv_blocks_total: saturating(load.blocks_total),
        }))
    }
}

async fn generate(runtime: &Runtime, request: GenerateRequest) -> Result<Inbox, Status> {
    let arrived = Instant::now();
    let shared = runtime.shared();
    let model = shared.ready_model()?;
    let generation = validate::generation(&request, model.vocab_size, fresh_seed())?;
    validate::fits(generation.num_sequences, shared.admission.num_places())?;
    // Before the prompt is made into tokens: who must stay out costs nothing.
    let admission = shared.admission.enter(&request.request_id, generation.num_sequences as usize);
    let admitted = admission.map_err(Refusal::from)?;
    // Draining may have begun, and found nobody in, since the first look.
    shared.ready_model()?;
    let (max_model_len, grammars) = (model.max_model_len, Arc::clone(&model.grammars));
    // The work goes on if the client hangs up, and keeps its place as long.
    let (admitted, prompt) = blocking(move || (admitted, prompt::prompt(&model, request.input))).await?;
    let Prompt { tokens, reading } = prompt?;
    let grammar = match generation.form {
        Some(form) => Some(compile(&shared.metrics, &grammars, form).await?),
        None => None,
    };
    // A grammar rules from the first token: there is no reasoning before what it asks for.
    let reading = if grammar.is_some() { Reading::Content } else { reading };

    let room = max_model_len - tokens.len();
    let max_tokens = generation.max_tokens.map_or(room, |asked| asked.min(room));
    let prompt_tokens = saturating(tokens.len());
    tracing::debug!(request = admitted.name, prompt_tokens, max_tokens, "request");
    let (id, commands) = (admitted.id, runtime.commands());
    let (outbox, inbox) = channel(move || {
        // If the engine's thread is gone, so is the request.
        let _ = commands.send(Command::HangUp(id));
    });
    let prompt_info = PromptInfo {
        prompt_tokens,
        cached_tokens: 0,
        max_model_len: saturating(max_model_len),
        max_tokens: saturating(max_tokens),
    };
    let num_sequences = generation.num_sequences;
    let stop_strings = generation.stop_strings;
    runtime.submit(Submission {
        request: EngineRequest {
            id,
            prompt: tokens.into(),
            num_sequences,
            max_tokens,
            stop_token_ids: generation.stop_token_ids,
            ignore_eos: generation.ignore_eos,
            priority: 0,
            prefix_cache: generation.prefix_cache,
            // A grammar has a mask for the next token only, and a script knows its tokens.
            speculate: grammar.is_none() && shared.config.script.is_none(),
            sampling: generation.sampling,
        },
        grammar,
        arrival: Arrival { admitted, outbox, num_sequences, prompt_info, stop_strings, reading, arrived },
    })?;
    Ok(inbox)
}

/// On a thread of its own, measured.
async fn compile(metrics: &Metrics, grammars: &Arc<Grammars>, form: Form) -> Result<Grammar, Refusal> {
    let started = Instant::now();
    let compiled = grammars.compile(form).await;
    metrics.grammar_compile_seconds.observe(started.elapsed().as_secs_f64());
    Ok(compiled?)
}

fn model_info(shared: &Shared) -> Result<GetModelInfoResponse, Refusal> {
    let state = match shared.phase() {
        Phase::Failed(error) => return Err(Refusal::Failed(error)),
        _ if shared.draining.is_cancelled() => State::Draining,
        Phase::Loading => State::Loading,
        Phase::Ready(_) => State::Ready,
    };
    let progress = shared.progress();
    let mut info = GetModelInfoResponse {
        state: state.into(),
        loaded_bytes: progress.loaded_bytes,
        total_bytes: progress.total_bytes,
        max_concurrency: saturating(shared.config.max_concurrency),
        device: shared.backend.to_owned(),
        kernels: shared.kernels.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        waiting_for: shared.gate.waiting_for().unwrap_or_default(),
        memory: shared.prepared.get().map(|prepared| MemoryTerms {
            weights_bytes: prepared.resident.weight_bytes as u64,
            kv_cache_bytes: prepared.resident.kv_cache_bytes as u64,
            activations_bytes: prepared.resident.activation_bytes as u64,
            process_bytes: process_bytes().unwrap_or(0),
        }),
        ..GetModelInfoResponse::default()
    };
    if let Some(description) = shared.description.get() {
        let (facts, limits) = (&description.facts, &description.limits);
        info.architecture = facts.architecture.clone();
        info.parameters = facts.parameters;
        info.quantization = facts.quantization.clone();
        info.weight_bytes = facts.weight_bytes;
        info.max_model_len = saturating(limits.max_context);
        info.block_size = saturating(limits.block_size);
        info.num_blocks = saturating(limits.num_blocks.iter().copied().max().unwrap_or(0));
        info.vocab_size = saturating(facts.vocab_size);
    }
    Ok(info)
}

/// Templates and tokenizers may take long for long inputs: not on the threads that serve everyone.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Status::internal(format!("prepare the prompt: {error}")))
}

/// From the system's entropy, by way of the standard library's hash keys.
fn fresh_seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn saturating(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
