//! What a runtime lets in, through a real gRPC client, with a tiny model.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::time::Duration;

use common::{TestBackend, chat, generate, load, start_tiny, text_request, wait_for_load};
use kindling_proto::v1::admin_client::AdminClient;
use kindling_proto::v1::generate_request::Input;
use kindling_proto::v1::{AbortRequest, ChatInput, FinishReason, GenerateRequest};
use tonic::Code;

#[tokio::test]
async fn a_prompt_that_is_still_worked_on_keeps_its_place() {
    let tiny = start_tiny(TestBackend::default(), |_| {}).await;
    // Long to read, though it would be short to compute: the template ignores tools.
    let tools_json = serde_json::json!([{ "text": "some words ".repeat(1_000_000) }]).to_string();
    let Input::Chat(chat) = chat("hi") else { unreachable!() };
    let input = Some(Input::Chat(ChatInput { tools_json, ..chat }));
    let (client, request) = (tiny.client.clone(), GenerateRequest { input, ..text_request("", 1) });
    let call = tokio::spawn(async move { generate(&client, request).await });
    wait_for_load(&tiny.client, |load| load.requests_waiting == 1).await;
    call.abort();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(load(&tiny.client).await.requests_waiting, 1, "the prompt is not read yet");
    wait_for_load(&tiny.client, |load| load.requests_waiting == 0).await;
}

#[tokio::test]
async fn an_abort_counts_while_the_prompt_is_worked_on() {
    let tiny = start_tiny(TestBackend::default(), |_| {}).await;
    let mut admin = AdminClient::new(tiny.runtime.connect_in_process());
    // Long to read and short to compute: the template ignores tools.
    let tools_json = serde_json::json!([{ "text": "some words ".repeat(200_000) }]).to_string();
    let Input::Chat(chat) = chat("hi") else { unreachable!() };
    let input = Some(Input::Chat(ChatInput { tools_json, ..chat }));
    let request = GenerateRequest { request_id: "one".to_owned(), input, ..text_request("", 100) };
    let client = tiny.client.clone();
    let call = tokio::spawn(async move { generate(&client, request).await });
    wait_for_load(&tiny.client, |load| load.requests_waiting == 1).await;
    let abort = AbortRequest { request_id: "one".to_owned() };
    assert!(admin.abort(abort).await.unwrap().into_inner().was_running);
    let answer = call.await.unwrap().unwrap();
    assert_eq!(answer.finish(0).reason(), FinishReason::Aborted);
    assert_eq!(load(&tiny.client).await.requests_waiting, 0);
}

#[tokio::test]
async fn more_completions_than_there_are_places_can_never_succeed() {
    let tiny = start_tiny(TestBackend::default(), |config| {
        config.max_concurrency = 1;
        config.max_waiting = 1;
    })
    .await;
    let status = generate(&tiny.client, GenerateRequest { n: 3, ..text_request("x", 1) }).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "n is 3, at most 2 are possible"));
    generate(&tiny.client, GenerateRequest { n: 2, ..text_request("x", 1) }).await.unwrap();
}

#[tokio::test]
async fn all_that_a_gateway_lets_through_is_read() {
    let tiny = start_tiny(TestBackend::default(), |_| {}).await;
    // Refused for another reason, so that nobody has to tokenise it.
    let request = GenerateRequest { n: 9, ..text_request(&"x".repeat(33 << 20), 1) };
    let status = generate(&tiny.client, request).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "n is 9, at most 8 are possible"));
}
