//! A prompt that was computed before, on the sample model: how much sooner its first token comes.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic and print")]

mod common;

use common::{Answer, generate, sample_gguf, text_request};
use kindling_proto::v1::inference_client::InferenceClient;
use kindling_proto::v1::{GenerateRequest, PrefixCache};
use kindling_runtime::{Runtime, RuntimeConfig};

fn prefill_seconds(answer: &Answer) -> f64 {
    answer.finish(0).usage.unwrap().prefill_seconds
}

fn cached_tokens(answer: &Answer) -> u32 {
    answer.finish(0).usage.unwrap().cached_tokens
}

#[tokio::test]
async fn a_prefix_of_a_thousand_tokens_is_computed_once() {
    let Some(path) = sample_gguf() else { return };
    let config = RuntimeConfig { context_length: Some(2048), num_threads: Some(2), ..RuntimeConfig::new(path) };
    let runtime = Runtime::start(config);
    runtime.ready().await.unwrap();
    let client = InferenceClient::new(runtime.connect_in_process());
    let prefix = "The lighthouse keeper had not spoken to anyone for eleven days. ".repeat(84);
    let request = |text: &str| text_request(&format!("{prefix}{text}"), 8);

    let first = generate(&client, request("Then a ship came.")).await.unwrap();
    let second = generate(&client, request("On the twelfth he sang.")).await.unwrap();
    let prompt_tokens = first.prompt.prompt_tokens;
    let (cold, warm) = (prefill_seconds(&first), prefill_seconds(&second));
    println!("{prompt_tokens} tokens: {cold:.4} s, then {warm:.4} s with {} cached", cached_tokens(&second));
    assert!(prompt_tokens > 1000);
    assert_eq!(cached_tokens(&first), 0);
    assert!(prompt_tokens - cached_tokens(&second) < 32, "all but the own part and the rest of a block");
    // Measured 2026-11-22 on two cores that others used as well: 37.84 s, then 0.26 s with 1008 of 1013 tokens cached.
    assert!(warm < cold / 10.0, "{warm} s after {cold} s");
}

#[tokio::test]
async fn prefixes_are_shared_within_a_salt_and_not_by_who_keeps_out() {
    let Some(path) = sample_gguf() else { return };
    let config = RuntimeConfig { context_length: Some(512), num_threads: Some(2), ..RuntimeConfig::new(path) };
    let runtime = Runtime::start(config);
    runtime.ready().await.unwrap();
    let client = InferenceClient::new(runtime.connect_in_process());
    let text = "The lighthouse keeper had not spoken to anyone for eleven days. ".repeat(4);
    let request = |prefix_cache| GenerateRequest { prefix_cache, ..text_request(&text, 4) };
    let salted = request(Some(PrefixCache { salt: "other".to_owned(), ..PrefixCache::default() }));
    let bypassed = request(Some(PrefixCache { bypass: true, ..PrefixCache::default() }));
    let first = generate(&client, request(None)).await.unwrap();
    assert_eq!(cached_tokens(&first), 0);
    for (request, is_cached) in [(request(None), true), (salted.clone(), false), (salted, true), (bypassed, false)] {
        let answer = generate(&client, request).await.unwrap();
        assert_eq!(cached_tokens(&answer) > 0, is_cached);
        assert_eq!(answer.tokens(0), first.tokens(0));
    }
}

#[tokio::test]
async fn several_completions_compute_their_prompt_once() {
    let Some(path) = sample_gguf() else { return };
    let config = RuntimeConfig { context_length: Some(1024), num_threads: Some(2), ..RuntimeConfig::new(path) };
    let runtime = Runtime::start(config);
    runtime.ready().await.unwrap();
    let client = InferenceClient::new(runtime.connect_in_process());
    let text = "The lighthouse keeper had not spoken to anyone for eleven days. ".repeat(30);
    let answer = generate(&client, GenerateRequest { n: 4, ..text_request(&text, 4) }).await.unwrap();
    let prompt_tokens = answer.prompt.prompt_tokens;
    assert_eq!(answer.finish(3).usage.unwrap().cached_tokens, 0, "nobody had computed it before this request");
    let metrics = runtime.metrics_text();
    let hits = metrics.lines().find_map(|line| line.strip_prefix("kindling_runtime_prefix_cache_hits_total "));
    let hits: u32 = hits.unwrap().parse().unwrap();
    assert_eq!(hits, 3 * ((prompt_tokens - 1) / 16 * 16), "three of four begin where the first has been");
}
