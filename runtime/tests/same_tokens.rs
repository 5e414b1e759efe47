//! The same request with the same seed gives the same tokens, however it is computed: alone, in a batch, preempted,
//! begun from the prefix cache, with guesses, by any number of threads. On the sample model.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic and print")]

mod common;

use common::{Answer, generate, sample_gguf, text_request};
use kindling_proto::v1::inference_client::InferenceClient;
use kindling_proto::v1::{GenerateRequest, Sampling};
use kindling_runtime::{Runtime, RuntimeConfig};
use tonic::transport::Channel;

/// A list that goes on by itself: a prompt whose continuation can be guessed, longer than some blocks.
const LIST: &str = "Seven days: Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday.\n\
                    Seven days: Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday.\nSeven days:";

/// What each setting is given: greedy and drawn, short and long, two of them for several completions.
fn requests() -> Vec<GenerateRequest> {
    let story = "The lighthouse keeper had not spoken to anyone for eleven days. ".repeat(6);
    let drawn = |text: &str, seed, n| {
        let sampling = Sampling { temperature: Some(0.8), seed: Some(seed), ..Sampling::default() };
        GenerateRequest { sampling: Some(sampling), n, ..text_request(text, 40) }
    };
    vec![
        text_request(LIST, 48),
        drawn(&story, 7, 2),
        drawn("fn main() {", 11, 1),
        drawn(LIST, 5, 3),
        text_request(&format!("{story}Then a ship"), 40),
        // Arrives as one, fits when it begins and not when it has grown: a small pool must preempt.
        drawn("Once upon a time", 3, 8),
    ]
}

struct Setting {
    name: &'static str,
    together: bool,
    threads: usize,
    kv_tokens: usize,
    prefix_cache: bool,
    speculative_tokens: usize,
}

/// So few tokens that requests together don't fit, in whatever order they arrive (with 256 they sometimes did).
const TIGHT: usize = 160;

const ALONE: Setting =
    Setting { name: "alone", together: false, threads: 2, kv_tokens: 4096, prefix_cache: false, speculative_tokens: 0 };

fn metric(runtime: &Runtime, name: &str) -> f64 {
    let text = runtime.metrics_text();
    let line = text.lines().find(|line| line.starts_with(&format!("kindling_runtime_{name} "))).unwrap();
    line.split(' ').next_back().unwrap().parse().unwrap()
}

async fn run(setting: &Setting) -> Option<(Vec<Vec<Vec<u32>>>, Vec<Answer>, Runtime)> {
    let config = RuntimeConfig {
        context_length: Some(512),
        kv_tokens: Some(setting.kv_tokens),
        num_threads: Some(setting.threads),
        prefix_cache: setting.prefix_cache,
        speculative_tokens: setting.speculative_tokens,
        ..RuntimeConfig::new(sample_gguf()?)
    };
    let runtime = Runtime::start(config);
    runtime.ready().await.unwrap();
    let client: InferenceClient<Channel> = InferenceClient::new(runtime.connect_in_process());
    let mut answers = Vec::new();
    if setting.together {
        let all = requests().into_iter().map(|request| generate(&client, request));
        answers.extend(futures::future::join_all(all).await.into_iter().map(Result::unwrap));
    } else {
        for request in requests() {
            answers.push(generate(&client, request).await.unwrap());
        }
    }
    let tokens = answers
        .iter()
        .zip(requests())
        .map(|(answer, request)| (0..request.n.max(1)).map(|index| answer.tokens(index)).collect());
    Some((tokens.collect(), answers, runtime))
}

#[tokio::test]
async fn same_seed_gives_the_same_tokens_however_it_is_computed() {
    let Some((expected, ..)) = run(&ALONE).await else { return };
    let settings = [
        Setting { name: "one thread", threads: 1, ..ALONE },
        Setting { name: "three threads, batched", threads: 3, together: true, ..ALONE },
        Setting { name: "preempted", together: true, kv_tokens: TIGHT, ..ALONE },
        Setting { name: "prefix cached", prefix_cache: true, ..ALONE },
        Setting { name: "speculated", speculative_tokens: 6, ..ALONE },
        Setting {
            name: "all at once",
            together: true,
            kv_tokens: TIGHT,
            prefix_cache: true,
            speculative_tokens: 6,
            ..ALONE
        },
    ];
    for setting in &settings {
        let (tokens, answers, runtime) = run(setting).await.unwrap();
        let counters = ["preemptions_total", "prefix_cache_hits_total", "spec_decode_accepted_tokens_total"];
        let [preemptions, hits, accepted] = counters.map(|name| metric(&runtime, name));
        println!("{}: {preemptions} preemptions, {hits} cached tokens, {accepted} right guesses", setting.name);
        assert_eq!(tokens, expected, "{}", setting.name);
        // A setting in which nothing happens shows nothing.
        assert_eq!(setting.prefix_cache, hits > 0.0, "{}", setting.name);
        assert_eq!(setting.speculative_tokens > 0, accepted > 0.0, "{}", setting.name);
        assert!(setting.kv_tokens > TIGHT || preemptions > 0.0, "{}", setting.name);
        if setting.name == "prefix cached" {
            cached_tokens_are_told(&answers);
        }
        if setting.name == "speculated" {
            let usage = answers[0].finish(0).usage.unwrap();
            assert!(usage.accepted_draft_tokens > 0 && usage.accepted_draft_tokens <= usage.draft_tokens);
        }
    }
}

/// The fourth request begins as the first one does, and the fifth as the second.
fn cached_tokens_are_told(answers: &[Answer]) {
    for (index, answer) in answers.iter().enumerate() {
        let usage = answer.finish(0).usage.unwrap();
        println!("request {index}: {} of {} tokens cached", usage.cached_tokens, usage.prompt_tokens);
        assert_eq!(usage.cached_tokens, answer.prompt.cached_tokens);
        assert_eq!(usage.cached_tokens % 16, 0, "whole blocks");
        assert!(usage.cached_tokens < usage.prompt_tokens);
        assert_eq!(index == 3 || index == 4, usage.cached_tokens >= 32, "request {index}");
        assert!(answer.finishes.iter().all(|finish| finish.usage.unwrap().cached_tokens == usage.cached_tokens));
    }
}
