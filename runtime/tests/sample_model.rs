//! The sample model through the whole runtime: real weights, real tokens, and how fast they come.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic and print")]

mod common;

use std::path::Path;

use common::{Answer, generate, start_sample, text_request};
use kindling_proto::v1::{ChatInput, ChatMessage, FinishReason, TokenizeRequest, generate_request, tokenize_request};
use serde_json::Value as Json;

fn print_speed(what: &str, answer: &Answer) {
    let usage = answer.finish(0).usage.unwrap();
    println!(
        "{what}: prefill {:.0} tok/s over {} tokens, decode {:.1} tok/s over {} tokens",
        f64::from(usage.prompt_tokens) / usage.prefill_seconds,
        usage.prompt_tokens,
        f64::from(usage.completion_tokens - 1) / usage.decode_seconds,
        usage.completion_tokens,
    );
}

/// Greedy answers of llama.cpp to chats. The two may part where the recorded gap between the two likeliest tokens is
/// within llama.cpp's own noise: 0.36 is its 99th percentile between two settings (`noise` in the golden file).
#[tokio::test]
async fn chats_as_llama_cpp_does_until_a_near_tie() {
    const NOISE: f64 = 0.36;
    let Some((_runtime, client)) = start_sample().await else { return };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/smollm2-135m-instruct-q4_1.json");
    let golden: Json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let ids = |value: &Json| value.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect::<Vec<u32>>();
    for case in golden["greedy"].as_array().unwrap() {
        let message = |message: &Json| ChatMessage {
            role: message["role"].as_str().unwrap().to_owned(),
            content: message["content"].as_str().unwrap().to_owned(),
            ..ChatMessage::default()
        };
        let messages = case["messages"].as_array().unwrap().iter().map(message).collect();
        let chat = ChatInput { messages, ..ChatInput::default() };
        let input = Some(tokenize_request::Input::Chat(chat.clone()));
        let request = TokenizeRequest { input, add_special_tokens: None };
        let prompt = client.clone().tokenize(request).await.unwrap().into_inner();
        assert_eq!(prompt.token_ids, ids(&case["prompt_tokens"]));

        let expected = ids(&case["tokens"]);
        let mut request = text_request("", 48);
        request.input = Some(generate_request::Input::Chat(chat));
        request.stopping.as_mut().unwrap().ignore_eos = false;
        let answer = generate(&client, request).await.unwrap();
        let tokens = answer.tokens(0);
        let same = tokens.iter().zip(&expected).take_while(|(a, b)| a == b).count();
        println!("{same} of {} tokens as llama.cpp: {:?}", expected.len(), answer.text(0));
        print_speed("chat", &answer);
        if same == expected.len() {
            assert_eq!(tokens, expected);
            assert_eq!(answer.text(0), case["text"].as_str().unwrap());
            let reason = if case["finish"] == "stop" { FinishReason::Stop } else { FinishReason::Length };
            assert_eq!(answer.finish(0).reason(), reason);
        } else {
            let gap = case["gap"][same].as_f64().unwrap();
            assert!(gap < NOISE, "parts from llama.cpp at token {same}, where the gap is {gap}");
        }
    }
}

#[tokio::test]
async fn several_at_once_get_what_they_get_alone() {
    let Some((_runtime, client)) = start_sample().await else { return };
    let long = "The lighthouse keeper had not spoken to anyone for eleven days. ".repeat(36);
    let requests = [text_request(&long, 40), text_request("Once upon a time", 40), text_request("fn main() {", 40)];
    let mut alone = Vec::new();
    for request in &requests {
        let answer = generate(&client, request.clone()).await.unwrap();
        print_speed("alone", &answer);
        alone.push(answer.tokens(0));
    }
    let together = futures::future::join_all(requests.iter().map(|request| generate(&client, request.clone()))).await;
    for (together, alone) in together.into_iter().zip(alone) {
        assert_eq!(together.unwrap().tokens(0), alone);
    }
}
