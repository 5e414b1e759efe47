//! The service through a real gRPC client, with a tiny model.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic and print")]

mod common;

use std::time::Duration;

use common::{
    DEADLINE, TestBackend, byte_token, chat, collect, generate, load, start_tiny, text_request, tiny_model,
    wait_for_load,
};
use futures::future::join_all;
use kindling_proto::v1::admin_client::AdminClient;
use kindling_proto::v1::generate_request::Input;
use kindling_proto::v1::get_model_info_response::State;
use kindling_proto::v1::inference_client::InferenceClient;
use kindling_proto::v1::{
    AbortRequest, DrainRequest, FinishReason, GenerateRequest, GetModelInfoRequest, Sampling, Stopping, TokenIds,
    TokenizeRequest, tokenize_request,
};
use kindling_runtime::{BackendKind, Runtime, RuntimeConfig};
use tonic::Code;
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

const SLOW: TestBackend = TestBackend { step_time: Duration::from_millis(5), panics_at_step: None, check: None };

/// Draws letters only, one token each.
fn letters(seed: u64) -> Sampling {
    Sampling {
        temperature: Some(1.0),
        seed: Some(seed),
        logit_bias: (b'a'..=b'e').map(|letter| (byte_token(letter), 100.0)).collect(),
        ..Sampling::default()
    }
}

#[tokio::test]
async fn streams_a_chat() {
    let tiny = start_tiny(TestBackend::default(), |_| {}).await;
    let request = GenerateRequest { input: Some(chat("hi")), ..text_request("", 12) };
    let answer = generate(&tiny.client, request).await.unwrap();
    // The template gives `u:hi;`, a token per byte.
    assert_eq!(answer.prompt.prompt_tokens, 5);
    assert_eq!((answer.prompt.max_model_len, answer.prompt.max_tokens), (512, 12));
    assert_eq!(answer.tokens(0).len(), 12);
    let finish = answer.finish(0);
    assert_eq!(finish.reason(), FinishReason::Length);
    let usage = finish.usage.unwrap();
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (5, 12));
    assert!(usage.prefill_seconds > 0.0 && usage.decode_seconds > 0.0);
    let same = generate(&tiny.client, text_request("u:hi;", 12)).await.unwrap();
    assert_eq!(same.tokens(0), answer.tokens(0));
    let tokens = TokenIds { ids: b"u:hi;".iter().map(|byte| byte_token(*byte)).collect() };
    let request = GenerateRequest { input: Some(Input::TokenIds(tokens)), ..text_request("", 12) };
    assert_eq!(generate(&tiny.client, request).await.unwrap().tokens(0), answer.tokens(0));
}

#[tokio::test]
async fn several_at_once_get_what_they_get_alone() {
    // A small cache and small steps: prompts in chunks, preemptions.
    let tiny = start_tiny(TestBackend::default(), |config| {
        config.kv_tokens = Some(160);
        config.max_batched_tokens = 24;
    })
    .await;
    let requests: Vec<GenerateRequest> = (0..6)
        .map(|index| {
            let mut request = text_request(&"some words ".repeat(1 + index % 4), 70);
            if index % 2 == 1 {
                request.sampling = Some(letters(index as u64));
            }
            request
        })
        .collect();
    let mut alone = Vec::new();
    for request in &requests {
        alone.push(generate(&tiny.client, request.clone()).await.unwrap().tokens(0));
    }
    let together = join_all(requests.iter().map(|request| generate(&tiny.client, request.clone()))).await;
    for (together, alone) in together.into_iter().zip(alone) {
        assert_eq!(together.unwrap().tokens(0), alone);
    }
    let text = tiny.runtime.metrics_text();
    let preemptions = text.lines().find(|line| line.starts_with("kindling_runtime_preemptions_total")).unwrap();
    assert!(!preemptions.ends_with(" 0"), "the cache should be too small for all: {preemptions}");
    let load = load(&tiny.client).await;
    assert_eq!((load.requests_running, load.requests_waiting, load.kv_blocks_used), (0, 0, 0));
}

#[tokio::test]
async fn same_seed_same_tokens_and_completions_of_one_prompt_differ() {
    let tiny = start_tiny(TestBackend::default(), |_| {}).await;
    let request =
        |seed| GenerateRequest { sampling: Some(Sampling { seed, ..letters(0) }), n: 3, ..text_request("x", 20) };
    let first = generate(&tiny.client, request(Some(7))).await.unwrap();
    let second = generate(&tiny.client, request(Some(7))).await.unwrap();
    assert_eq!(first.finishes.len(), 3);
    for index in 0..3 {
        assert_eq!(first.tokens(index).len(), 20);
        assert_eq!(first.tokens(index), second.tokens(index));
    }
    assert_ne!(first.tokens(0), first.tokens(1));
    let unseeded = generate(&tiny.client, request(None)).await.unwrap();
    assert_ne!(unseeded.tokens(0), generate(&tiny.client, request(None)).await.unwrap().tokens(0));
}

#[tokio::test]
async fn a_stop_string_across_tokens_ends_a_completion() {
    let tiny = start_tiny(TestBackend::default(), |_| {}).await;
    let request = |stop_strings: Vec<String>| GenerateRequest {
        sampling: Some(letters(5)),
        stopping: Some(Stopping { max_tokens: Some(60), stop_strings, ..Stopping::default() }),
        ..text_request("x", 0)
    };
    let whole = generate(&tiny.client, request(Vec::new())).await.unwrap().text(0);
    let stop = whole[20..24].to_owned();
    let expected = &whole[..whole.find(&stop).unwrap()];
    let answer = generate(&tiny.client, request(vec!["never".to_owned(), stop.clone()])).await.unwrap();
    assert_eq!(answer.text(0), expected);
    let finish = answer.finish(0);
    assert_eq!((finish.reason(), finish.stop_string.as_deref()), (FinishReason::Stop, Some(stop.as_str())));
    assert_eq!(finish.usage.unwrap().completion_tokens as usize, expected.len() + 4);
    assert_eq!(load(&tiny.client).await.kv_blocks_used, 0);
    // What only begins like a stop string is given out at the end.
    let begins_like = format!("{}!", &whole[58..60]);
    assert_eq!(generate(&tiny.client, request(vec![begins_like])).await.unwrap().text(0), whole);
}

#[tokio::test]
async fn a_stop_token_ends_a_completion_and_is_no_text() {
    let tiny = start_tiny(TestBackend::default(), |_| {}).await;
    let mut request = GenerateRequest { sampling: Some(letters(5)), ..text_request("x", 60) };
    let whole = generate(&tiny.client, request.clone()).await.unwrap().text(0);
    request.stopping.as_mut().unwrap().stop_token_ids = vec![byte_token(b'c')];
    let answer = generate(&tiny.client, request).await.unwrap();
    assert_eq!(answer.text(0), whole[..whole.find('c').unwrap()]);
    assert_eq!(answer.finish(0).stop_token_id, Some(byte_token(b'c')));
}

#[tokio::test]
async fn logprobs_come_with_their_tokens() {
    let tiny = start_tiny(TestBackend::default(), |_| {}).await;
    let request = GenerateRequest { logprobs: Some(3), ..text_request("abc", 5) };
    let answer = generate(&tiny.client, request).await.unwrap();
    for delta in &answer.deltas {
        let [logprob] = delta.logprobs.as_slice() else { panic!("{delta:?}") };
        assert_eq!(vec![logprob.token_id], delta.token_ids);
        assert_eq!(logprob.top.len(), 3);
        assert_eq!(logprob.top[0].token_id, logprob.token_id, "greedy takes the likeliest");
        assert!(logprob.top[0].logprob >= logprob.top[1].logprob && logprob.logprob < 0.0);
    }
}

#[tokio::test]
async fn hanging_up_frees_the_blocks() {
    let tiny = start_tiny(SLOW, |_| {}).await;
    let mut stream = tiny.client.clone().generate(text_request("x", 400)).await.unwrap().into_inner();
    for _ in 0..3 {
        stream.message().await.unwrap().unwrap();
    }
    assert!(load(&tiny.client).await.kv_blocks_used > 0);
    drop(stream);
    wait_for_load(&tiny.client, |load| load.kv_blocks_used == 0 && load.requests_running == 0).await;
    let text = tiny.runtime.metrics_text();
    assert!(text.contains("kindling_runtime_requests_total{finish_reason=\"abort\"} 1"), "{text}");
    assert!(text.contains("kindling_runtime_kv_cache_usage_ratio 0\n"), "{text}");
}

#[tokio::test]
async fn a_client_that_does_not_read_stalls_nobody() {
    let tiny = start_tiny(TestBackend::default(), |_| {}).await;
    let hung = tiny.client.clone().generate(text_request("hung", 450)).await.unwrap().into_inner();
    for _ in 0..3 {
        generate(&tiny.client, text_request("quick", 20)).await.unwrap();
    }
    wait_for_load(&tiny.client, |load| load.requests_running == 0).await;
    // It ends without being read, and nothing of it is lost.
    assert_eq!(collect(hung).await.unwrap().tokens(0).len(), 450);
}

#[tokio::test]
async fn an_overlong_prompt_is_refused_with_both_numbers() {
    let tiny = start_tiny(TestBackend::default(), |config| config.context_length = Some(64)).await;
    let status = generate(&tiny.client, text_request(&"x".repeat(64), 1)).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
    assert_eq!(status.message(), "prompt has 64 tokens, the maximum context length is 64 tokens");
    let answer = generate(&tiny.client, text_request(&"x".repeat(60), 500)).await.unwrap();
    assert_eq!((answer.prompt.max_tokens, answer.tokens(0).len()), (4, 4));
    assert_eq!(answer.finish(0).reason(), FinishReason::Length);
}

#[tokio::test]
async fn what_can_never_succeed_is_an_invalid_argument() {
    let tiny = start_tiny(TestBackend::default(), |_| {}).await;
    let mut bad_temperature = text_request("x", 1);
    bad_temperature.sampling.as_mut().unwrap().temperature = Some(-1.0);
    let token_ids = |ids| GenerateRequest { input: Some(Input::TokenIds(TokenIds { ids })), ..text_request("", 1) };
    let mut bad_tools = text_request("", 1);
    let Input::Chat(mut chat) = chat("hi") else { unreachable!() };
    chat.tools_json = "{".to_owned();
    bad_tools.input = Some(Input::Chat(chat));
    for (request, message) in [
        (bad_temperature, "temperature is -1, it must be 0 or greater"),
        (text_request("", 1), "prompt is empty"),
        (GenerateRequest { input: None, ..text_request("", 1) }, "prompt is empty"),
        (token_ids(vec![]), "prompt is empty"),
        (token_ids(vec![256]), "token_ids is 256, the vocabulary has 256 tokens"),
        (bad_tools, "tools_json is {, it must be a JSON array"),
        (text_request("x", 0), "max_tokens is 0, it must be at least 1"),
    ] {
        let status = generate(&tiny.client, request).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, message));
    }
    assert_eq!(load(&tiny.client).await.requests_waiting, 0, "nobody refused stays in");
}

#[tokio::test]
async fn a_full_queue_refuses_and_recovers() {
    let tiny = start_tiny(SLOW, |config| {
        config.max_concurrency = 1;
        config.max_waiting = 1;
    })
    .await;
    let first = tiny.client.clone().generate(text_request("a", 300)).await.unwrap();
    let second = tiny.client.clone().generate(text_request("b", 300)).await.unwrap();
    wait_for_load(&tiny.client, |load| load.requests_running == 1 && load.requests_waiting == 1).await;
    let status = generate(&tiny.client, text_request("c", 1)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("1 may run and 1 may wait"), "{status}");
    drop((first, second));
    wait_for_load(&tiny.client, |load| load.requests_waiting == 0 && load.requests_running == 0).await;
    generate(&tiny.client, text_request("c", 1)).await.unwrap();
}

#[tokio::test]
async fn a_loading_model_says_how_far_it_is() {
    let folder = tiny_model();
    let size = std::fs::metadata(folder.0.join("model.safetensors")).unwrap().len();
    let config = RuntimeConfig { read_bytes_per_second: Some(size / 2), ..RuntimeConfig::new(&folder.0) };
    let runtime = Runtime::start(RuntimeConfig { backend: BackendKind::Reference, ..config });
    let mut client = InferenceClient::new(runtime.connect_in_process());
    let mut health = HealthClient::new(runtime.connect_in_process());
    let started = std::time::Instant::now();
    loop {
        let info = client.get_model_info(GetModelInfoRequest {}).await.unwrap().into_inner();
        assert_eq!(info.state(), State::Loading);
        if info.loaded_bytes > 0 {
            assert!(info.loaded_bytes < info.total_bytes);
            assert_eq!((info.architecture.as_str(), info.max_model_len), ("LlamaForCausalLM", 512));
            break;
        }
        assert!(started.elapsed() < DEADLINE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let status = generate(&client, text_request("x", 1)).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "model is loading, 0 of 0 MiB read"));
    for (name, ready) in [("", false), ("kindling.v1.Inference", false), ("", true), ("kindling.v1.Inference", true)] {
        if ready {
            runtime.ready().await.unwrap();
        }
        let wanted = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        let started = std::time::Instant::now();
        loop {
            let request = HealthCheckRequest { service: name.to_owned() };
            let status = health.check(request).await.unwrap().into_inner().status;
            if status == wanted as i32 {
                break;
            }
            assert!(ready && started.elapsed() < DEADLINE, "{name}: {status}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    let info = client.get_model_info(GetModelInfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.state(), info.loaded_bytes), (State::Ready, info.total_bytes));
    generate(&client, text_request("x", 1)).await.unwrap();
}

#[tokio::test]
async fn an_operator_can_abort_and_drain() {
    let tiny = start_tiny(SLOW, |_| {}).await;
    let mut admin = AdminClient::new(tiny.runtime.connect_in_process());
    let named = |name: &str| GenerateRequest { request_id: name.to_owned(), ..text_request("x", 300) };
    let stream = tiny.client.clone().generate(named("one")).await.unwrap().into_inner();
    let status = generate(&tiny.client, named("one")).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "request_id one is in use"));
    let abort = |name: &str| AbortRequest { request_id: name.to_owned() };
    assert!(!admin.abort(abort("two")).await.unwrap().into_inner().was_running);
    assert!(admin.abort(abort("one")).await.unwrap().into_inner().was_running);
    let answer = collect(stream).await.unwrap();
    assert_eq!(answer.finish(0).reason(), FinishReason::Aborted);
    assert_eq!(load(&tiny.client).await.kv_blocks_used, 0);

    let running = tiny.client.clone().generate(text_request("x", 40)).await.unwrap().into_inner();
    let drained = tokio::spawn(async move { admin.drain(DrainRequest {}).await.unwrap() });
    let started = std::time::Instant::now();
    loop {
        let info = tiny.client.clone().get_model_info(GetModelInfoRequest {}).await.unwrap().into_inner();
        if info.state() == State::Draining {
            break;
        }
        assert!(started.elapsed() < DEADLINE);
    }
    let status = generate(&tiny.client, text_request("x", 1)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    drained.await.unwrap();
    assert_eq!(collect(running).await.unwrap().tokens(0).len(), 40, "what runs may end");
}

#[tokio::test]
async fn reflection_lists_the_services() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let tiny = start_tiny(TestBackend::default(), |_| {}).await;
    let mut client = ServerReflectionClient::new(tiny.runtime.connect_in_process());
    let message_request = Some(MessageRequest::ListServices(String::new()));
    let request = ServerReflectionRequest { host: String::new(), message_request };
    let mut stream = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let response = stream.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = response else { panic!("{response:?}") };
    let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    for name in ["kindling.v1.Inference", "kindling.v1.Admin", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|found| found == name), "{names:?}");
    }
}

#[tokio::test]
async fn tokenizes_text_and_chats() {
    let mut tiny = start_tiny(TestBackend::default(), |_| {}).await;
    let request = |input| TokenizeRequest { input: Some(input), add_special_tokens: None };
    let response = tiny.client.tokenize(request(tokenize_request::Input::Text("hé".to_owned()))).await.unwrap();
    let expected: Vec<u32> = "hé".bytes().map(byte_token).collect();
    assert_eq!(response.into_inner().token_ids, expected);
    let Input::Chat(chat) = chat("hi") else { unreachable!() };
    let response = tiny.client.tokenize(request(tokenize_request::Input::Chat(chat))).await.unwrap().into_inner();
    assert_eq!(response.token_ids, b"u:hi;".iter().map(|byte| byte_token(*byte)).collect::<Vec<_>>());
    assert_eq!(response.max_model_len, 512);
}

#[tokio::test]
async fn a_panic_in_the_engine_ends_requests_and_the_runtime() {
    let backend = TestBackend { panics_at_step: Some(5), ..TestBackend::default() };
    let tiny = start_tiny(backend, |_| {}).await;
    let status = generate(&tiny.client, text_request("x", 50)).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    let error = tokio::time::timeout(DEADLINE, tiny.runtime.failed()).await.unwrap();
    assert!(error.to_string().contains("told to panic"), "{error}");
    let status = generate(&tiny.client, text_request("x", 50)).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert!(status.message().contains("told to panic"), "{status}");
    let mut health = HealthClient::new(tiny.runtime.connect_in_process());
    let started = std::time::Instant::now();
    while health.check(HealthCheckRequest::default()).await.unwrap().into_inner().status
        != ServingStatus::NotServing as i32
    {
        assert!(started.elapsed() < DEADLINE);
    }
}
