//! A hybrid model behind the whole engine: recurrent states beside keys and values, in batches, in chunks, preempted and
//! begun from snapshots in the prefix cache. The tokens are always those that transformers gave, or the same.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic and print")]

mod common;

use std::time::Duration;

use common::{Answer, TestBackend, Tiny, generate, model_of, start, text_request};
use kindling_kernels::ReferenceBackend;
use kindling_proto::v1::generate_request::Input;
use kindling_proto::v1::{GenerateRequest, Sampling, TokenIds};
use kindling_runtime::{Runtime, RuntimeConfig};

const HYBRID: [(&str, &[u8]); 2] = [
    ("config.json", include_bytes!("../models/tests/golden/tiny_qwen3_next/config.json")),
    ("model.safetensors", include_bytes!("../models/tests/golden/tiny_qwen3_next/model.safetensors")),
];
const RECORDED: &str = include_str!("../models/tests/golden/tiny_qwen3_next/logits.json");

/// The recorded prompt and what follows it.
fn recorded() -> (Vec<u32>, Vec<u32>) {
    let recorded: serde_json::Value = serde_json::from_str(RECORDED).unwrap();
    let ids = |key: &str| recorded[key].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
    (ids("tokens"), ids("greedy"))
}

fn request(ids: &[u32], max_tokens: u32) -> GenerateRequest {
    let input = Some(Input::TokenIds(TokenIds { ids: ids.to_vec() }));
    GenerateRequest { input, ..text_request("", max_tokens) }
}

/// Prompts that begin alike; the last two begin as the third and the first do. Some are drawn, one for two completions.
fn requests() -> Vec<GenerateRequest> {
    let (tokens, greedy) = recorded();
    let story: Vec<u32> = (0..70).map(|index| 3 + (index * index + 11 * index) % 250).collect();
    let with = |first: &[u32], more: &[u32]| [first, more].concat();
    let drawn = |seed| Some(Sampling { temperature: Some(0.8), seed: Some(seed), ..Sampling::default() });
    vec![
        request(&tokens, greedy.len() as u32),
        GenerateRequest { sampling: drawn(3), n: 2, ..request(&story[..33], 60) },
        request(&story, 24),
        GenerateRequest { sampling: drawn(8), ..request(&with(&story[..65], &tokens), 24) },
        request(&with(&tokens[..17], &story[20..40]), 20),
    ]
}

#[derive(Clone, Copy)]
struct Setting {
    name: &'static str,
    together: bool,
    kv_tokens: usize,
    max_batched_tokens: usize,
    prefix_cache: bool,
}

const ALONE: Setting =
    Setting { name: "alone", together: false, kv_tokens: 2048, max_batched_tokens: 512, prefix_cache: false };

async fn run(setting: Setting) -> (Vec<Vec<Vec<u32>>>, Vec<Answer>, Tiny) {
    let change = |config: &mut RuntimeConfig| {
        config.context_length = Some(256);
        config.kv_tokens = Some(setting.kv_tokens);
        config.max_batched_tokens = setting.max_batched_tokens;
        config.prefix_cache = setting.prefix_cache;
        config.speculative_tokens = 0;
    };
    // Slow enough that requests which come together meet.
    let step_time = Duration::from_millis(if setting.together { 5 } else { 0 });
    let backend = TestBackend { step_time, ..TestBackend::default() };
    let tiny = start(model_of(&HYBRID), Box::new(backend), change).await;
    let mut answers = Vec::new();
    if setting.together {
        let all = requests().into_iter().map(|request| generate(&tiny.client, request));
        answers.extend(futures::future::join_all(all).await.into_iter().map(Result::unwrap));
    } else {
        for request in requests() {
            answers.push(generate(&tiny.client, request).await.unwrap());
        }
    }
    let tokens = answers
        .iter()
        .zip(requests())
        .map(|(answer, request)| (0..request.n.max(1)).map(|index| answer.tokens(index)).collect());
    (tokens.collect(), answers, tiny)
}

fn metric(tiny: &Tiny, name: &str) -> f64 {
    let text = tiny.runtime.metrics_text();
    let line = text.lines().find(|line| line.starts_with(&format!("kindling_runtime_{name} "))).unwrap();
    line.split(' ').next_back().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_hybrid_gives_the_recorded_tokens_and_the_same_however_it_is_computed() {
    let (expected, ..) = run(ALONE).await;
    assert_eq!(expected[0][0], recorded().1, "transformers' greedy continuation");
    let settings = [
        Setting { name: "together", together: true, ..ALONE },
        Setting { name: "in chunks of 7", max_batched_tokens: 7, ..ALONE },
        Setting { name: "preempted", together: true, kv_tokens: 128, ..ALONE },
        Setting { name: "prefix cached", prefix_cache: true, ..ALONE },
        Setting { name: "prefix cached in chunks", prefix_cache: true, max_batched_tokens: 7, ..ALONE },
        Setting { name: "all at once", together: true, kv_tokens: 128, max_batched_tokens: 24, prefix_cache: true },
    ];
    for setting in settings {
        let (tokens, answers, tiny) = run(setting).await;
        let cached: Vec<u32> = answers.iter().map(|answer| answer.prompt.cached_tokens).collect();
        let preemptions = metric(&tiny, "preemptions_total");
        println!("{}: {preemptions} preemptions, {cached:?} tokens of prompts cached", setting.name);
        assert_eq!(tokens, expected, "{}", setting.name);
        // The two completions of one prompt alone are more than the smaller pool holds.
        assert!(setting.kv_tokens > 1000 || preemptions > 0.0, "{}", setting.name);
        if setting.prefix_cache && !setting.together {
            // Snapshots are at the last whole block of a prompt of which a token is left.
            assert_eq!(cached, [0, 0, 32, 64, 16], "{}", setting.name);
        } else if !setting.prefix_cache {
            assert_eq!(cached, [0; 5], "{}", setting.name);
        }
    }
}

#[tokio::test]
async fn guesses_are_refused_since_a_state_cannot_be_taken_back() {
    let folder = model_of(&HYBRID);
    let mut config = RuntimeConfig::new(&folder.0);
    config.speculative_tokens = 6;
    let runtime = Runtime::start_with_backend(config, Box::new(ReferenceBackend));
    let refusal = format!("{:?}", runtime.ready().await.unwrap_err());
    assert!(refusal.contains("SpeculationWithRecurrentGroup"), "{refusal}");
}
