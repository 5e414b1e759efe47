//! Chat answers, in one piece and streamed.

use kindling_proto::v1::FinishReason;
use serde_json::json;

use crate::fake_runtime::{Step, content, finish, greet, prompt, reasoning};
use crate::harness::{assert_golden, gateway, gateway_with};

#[tokio::test]
async fn streams_chat_completion() {
    let gateway = gateway(greet).await;
    let answer = gateway.chat(json!({"stream": true})).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("text/event-stream; charset=utf-8"));
    assert_eq!(answer.header("kindling-model"), Some("demo/tiny"));
    assert_golden("chat_stream.sse", &answer.text);
}

#[tokio::test]
async fn streams_usage_when_asked() {
    let gateway = gateway(greet).await;
    let answer = gateway.chat(json!({"stream": true, "stream_options": {"include_usage": true}})).await;
    assert_golden("chat_stream_usage.sse", &answer.text);
}

#[tokio::test]
async fn streams_usage_to_everyone_when_forced() {
    let gateway = gateway_with(greet, |config| config.force_include_usage = true).await;
    let answer = gateway.chat(json!({"stream": true})).await;
    assert_golden("chat_stream_usage.sse", &answer.text);
}

#[tokio::test]
async fn streams_logprobs() {
    let gateway = gateway(greet).await;
    let answer = gateway.chat(json!({"stream": true, "logprobs": true, "top_logprobs": 2})).await;
    assert_golden("chat_stream_logprobs.sse", &answer.text);
}

#[tokio::test]
async fn streams_several_choices_side_by_side() {
    let gateway = gateway(greet).await;
    let answer = gateway.chat(json!({"stream": true, "n": 2, "max_tokens": 2})).await;
    assert_golden("chat_stream_two_choices.sse", &answer.text);
}

#[tokio::test]
async fn streams_reasoning_under_both_names() {
    let script = |_: &_| vec![prompt(3), reasoning(0, "hm"), content(0, "yes"), finish(0, FinishReason::Stop, 2)];
    let gateway = gateway(script).await;
    let answer = gateway.chat(json!({"stream": true})).await;
    assert_golden("chat_stream_reasoning.sse", &answer.text);
    let message = &gateway.chat(json!({})).await.json()["choices"][0]["message"];
    assert_eq!(message["reasoning_content"], "hm");
    assert_eq!(message["reasoning"], "hm");
    assert_eq!(message["content"], "yes");
}

#[tokio::test]
async fn an_error_inside_a_stream_is_its_last_event() {
    let script = |_: &_| vec![prompt(3), content(0, "so far"), Step::Fail(tonic::Status::internal("device lost"))];
    let gateway = gateway(script).await;
    let answer = gateway.chat(json!({"stream": true})).await;
    assert_eq!(answer.status, 200);
    assert_golden("chat_stream_error.sse", &answer.text);
    gateway.metric(r#"kindling_gateway_requests_total{code="500",model="demo/tiny",route="chat_completions"} 1"#).await;
}

#[tokio::test]
async fn a_stream_that_breaks_off_ends_with_an_error() {
    let gateway = gateway(|_: &_| vec![prompt(3), content(0, "so far")]).await;
    let answer = gateway.chat(json!({"stream": true})).await;
    assert_golden("chat_stream_broken.sse", &answer.text);
}

#[tokio::test]
async fn an_aborted_request_is_an_error_and_no_answer() {
    let gateway = gateway(|_: &_| vec![prompt(3), content(0, "a"), finish(0, FinishReason::Aborted, 1)]).await;
    assert_eq!(gateway.chat(json!({})).await.status, 503);
    assert!(gateway.chat(json!({"stream": true})).await.text.contains("model_unavailable"));
}

#[tokio::test]
async fn silence_is_filled_with_comments() {
    let script = |_: &_| {
        let pause = Step::Wait(std::time::Duration::from_millis(100));
        vec![prompt(3), pause, content(0, "late"), finish(0, FinishReason::Stop, 1)]
    };
    let keepalive = std::time::Duration::from_millis(20);
    let gateway = gateway_with(script, |config| config.timeouts.keepalive = keepalive).await;
    let answer = gateway.chat(json!({"stream": true})).await;
    assert!(answer.text.starts_with(": keep-alive\n\n"), "{}", answer.text);
    assert!(answer.text.contains("late") && answer.text.ends_with("data: [DONE]\n\n"));
}

#[tokio::test]
async fn a_slow_start_opens_the_stream_and_its_refusal_becomes_an_event() {
    let script = |_: &_| {
        vec![Step::Wait(std::time::Duration::from_millis(200)), Step::Fail(tonic::Status::out_of_range("too long"))]
    };
    let early = std::time::Duration::from_millis(10);
    let gateway = gateway_with(script, |config| config.timeouts.stream_open = early).await;
    let answer = gateway.chat(json!({"stream": true})).await;
    assert_eq!(answer.status, 200);
    assert!(answer.text.contains("context_length_exceeded"), "{}", answer.text);
}

#[tokio::test]
async fn answers_chat_completion() {
    let gateway = gateway(greet).await;
    let answer = gateway.chat(json!({})).await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_golden("chat.json", &answer.text);
}

#[tokio::test]
async fn null_keys_are_present() {
    let gateway = gateway(greet).await;
    let body = gateway.chat(json!({})).await.json();
    let choice = body["choices"][0].as_object().unwrap();
    assert!(choice["logprobs"].is_null());
    assert!(choice["message"].as_object().unwrap()["refusal"].is_null());
}

#[tokio::test]
async fn answers_with_logprobs() {
    let gateway = gateway(greet).await;
    let body = gateway.chat(json!({"logprobs": true, "top_logprobs": 1, "max_tokens": 5})).await.json();
    let tokens = body["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(tokens.len(), 5);
    assert_eq!(tokens[4]["bytes"], json!([0x98, 0x80]));
    assert_eq!(tokens[0]["top_logprobs"], json!([{"token": "Hello", "logprob": -0.25, "bytes": b"Hello".to_vec()}]));
    assert_eq!(body["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn answers_several_choices() {
    let gateway = gateway(greet).await;
    let body = gateway.chat(json!({"n": 3, "max_tokens": 1})).await.json();
    let choices = body["choices"].as_array().unwrap();
    assert_eq!(choices.iter().map(|c| c["index"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(body["usage"]["prompt_tokens"], 11);
    assert_eq!(body["usage"]["completion_tokens"], 3);
}

#[tokio::test]
async fn tokens_and_times_are_counted() {
    let gateway = gateway(greet).await;
    gateway.chat(json!({"stream": true})).await;
    gateway.metric(r#"kindling_gateway_prompt_tokens_total{model="demo/tiny"} 11"#).await;
    gateway.metric(r#"kindling_gateway_generation_tokens_total{model="demo/tiny"} 6"#).await;
    let labels = r#"{model="demo/tiny",route="chat_completions"}"#;
    gateway.metric(&format!("kindling_gateway_time_to_first_token_seconds_count{labels} 1")).await;
    gateway.metric(&format!("kindling_gateway_inter_token_latency_seconds_count{labels} 5")).await;
    gateway.metric(r#"kindling_gateway_requests_in_flight{route="chat_completions"} 0"#).await;
}
