//! What clients are told when it does not work.

use std::time::Duration;

use kindling_gateway::{Availability, Backend};
use serde_json::{Value, json};
use tonic::{Code, Status};

use crate::fake_runtime::{Step, content, greet, prompt};
use crate::harness::{gateway, gateway_with};

#[tokio::test]
async fn a_field_that_is_wrong_is_named() {
    let gateway = gateway(greet).await;
    let user = |content: Value| json!({"messages": [{"role": "user", "content": content}]});
    let table = [
        (json!({"temperature": 9}), "temperature"),
        (json!({"temperature": "hot"}), "temperature"),
        (json!({"top_p": 0}), "top_p"),
        (json!({"n": 0}), "n"),
        (json!({"n": 9}), "n"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"max_tokens": -1}), "max_tokens"),
        (json!({"max_completion_tokens": 0}), "max_completion_tokens"),
        (json!({"stop": ["a", "b", "c", "d", "e"]}), "stop"),
        (json!({"stop": [""]}), "stop"),
        (json!({"stop": ["a", 1]}), "stop[1]"),
        (json!({"presence_penalty": 3}), "presence_penalty"),
        (json!({"frequency_penalty": -3}), "frequency_penalty"),
        (json!({"logit_bias": {"x": 1}}), "logit_bias"),
        (json!({"logit_bias": {"1": 101}}), "logit_bias"),
        (json!({"top_logprobs": 3}), "top_logprobs"),
        (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs"),
        (json!({"stream": "yes"}), "stream"),
        (json!({"response_format": {"type": "structural_tag"}}), "response_format.type"),
        (json!({"response_format": {"type": "json_schema"}}), "response_format.json_schema.schema"),
        (json!({"tools": [{"type": "function"}]}), "tools"),
        (json!({"functions": [{}]}), "functions"),
        (json!({"min_tokens": 5}), "min_tokens"),
        (json!({"model": null}), "model"),
        (json!({"model": ""}), "model"),
        (json!({"model": 7}), "model"),
        (json!({"messages": []}), "messages"),
        (json!({"messages": null}), "messages"),
        (json!({"messages": "hi"}), "messages"),
        (json!({"messages": [{"content": "hi"}]}), "messages[0]"),
        (json!({"messages": [{"role": "wizard", "content": "hi"}]}), "messages[0].role"),
        (json!({"messages": [{"role": "user"}]}), "messages[0].content"),
        (json!({"messages": [{"role": "tool", "content": "x"}]}), "messages[0].tool_call_id"),
        (user(json!([{"type": "image_url", "image_url": {}}])), "messages[0].content[0].type"),
        (user(json!([{"type": "text"}])), "messages[0].content[0].text"),
        (user(json!([{"text": "x"}])), "messages[0].content[0]"),
        (user(json!(7)), "messages[0].content"),
        (user(json!([["text", "hi"]])), "messages[0].content[0]"),
        (json!({"messages": [["user", "hi"]]}), "messages[0]"),
        (json!({"stream_options": [true]}), "stream_options"),
    ];
    for (extra, param) in table {
        let answer = gateway.chat(extra.clone()).await;
        let (message, kind, found, code) = answer.error();
        assert_eq!((answer.status, found.as_deref()), (400, Some(param)), "{extra}: {message}");
        assert_eq!((kind.as_str(), code), ("invalid_request_error", None), "{extra}");
        assert!(message.contains(param), "{message}");
    }
    assert!(gateway.runtime.requests.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_wrong_type_is_told_with_its_position() {
    let gateway = gateway(greet).await;
    let body =
        "{\"model\":\"tiny\",\n \"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\n \"temperature\":\"hot\"}";
    let (message, ..) = gateway.post_raw("/v1/chat/completions", body).await.error();
    assert_eq!(message, "temperature: invalid type: string \"hot\", expected f32 at line 3 column 20");
}

#[tokio::test]
async fn what_is_no_json_is_refused_with_its_position() {
    let gateway = gateway(greet).await;
    for body in ["", "{", "[]", "nonsense", "{\"model\":\"tiny\",}", "{\"model\":\"tiny\"} {}", "\"\\ud800\"", "null"] {
        let answer = gateway.post_raw("/v1/chat/completions", body).await;
        assert_eq!(answer.status, 400, "{body}");
        assert!(answer.error().0.contains("line 1 column"), "{body}: {}", answer.text);
    }
    let deep = "[".repeat(100_000);
    assert_eq!(gateway.post_raw("/v1/chat/completions", deep).await.status, 400);
    assert_eq!(gateway.post_raw("/v1/chat/completions", vec![0xff, 0xfe]).await.status, 400);
}

#[tokio::test]
async fn a_huge_body_is_refused_and_the_client_hears_it() {
    let gateway = gateway_with(greet, |config| config.max_body_bytes = 1 << 20).await;
    let answer = gateway.post_raw("/v1/chat/completions", vec![b' '; 8 << 20]).await;
    assert_eq!(answer.status, 413);
    assert_eq!(answer.error().3.as_deref(), Some("request_too_large"));
}

#[tokio::test]
async fn the_content_type_does_not_matter() {
    let gateway = gateway(greet).await;
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-8"] {
        let request = gateway.http.post(format!("{}/v1/chat/completions", gateway.url));
        let request = request.header("content-type", content_type).body(crate::harness::hello().to_string());
        assert_eq!(request.send().await.unwrap().status(), 200, "{content_type}");
    }
}

#[tokio::test]
async fn a_refusal_of_the_runtime_has_its_status() {
    let table = [
        (Code::InvalidArgument, 400, "invalid_request_error", None),
        (Code::OutOfRange, 400, "invalid_request_error", Some("context_length_exceeded")),
        (Code::ResourceExhausted, 429, "rate_limit_error", Some("rate_limit_exceeded")),
        (Code::Unavailable, 503, "service_unavailable_error", Some("model_unavailable")),
        (Code::Internal, 500, "server_error", Some("internal_error")),
    ];
    for (grpc, status, kind, code) in table {
        for script in
            [vec![Step::Refuse(Status::new(grpc, "the reason"))], vec![Step::Fail(Status::new(grpc, "the reason"))]]
        {
            let gateway = gateway(move |_: &_| script.clone()).await;
            for stream in [false, true] {
                let answer = gateway.chat(json!({"stream": stream})).await;
                let (message, found_kind, _, found_code) = answer.error();
                assert_eq!((answer.status, message.as_str()), (status, "the reason"), "{grpc:?}, stream {stream}");
                assert_eq!((found_kind.as_str(), found_code.as_deref()), (kind, code));
                assert_eq!(answer.header("retry-after").is_some(), status == 429 || status == 503);
            }
        }
    }
}

#[tokio::test]
async fn a_model_that_loads_is_503_with_its_reason_and_when_to_try_again() {
    let gateway = gateway(greet).await;
    gateway.routes.update(|routes| {
        let message = "loading weights, 40 % done".to_owned();
        routes[0].availability = Availability::Unavailable { message, retry_after: Some(Duration::from_secs(40)) };
    });
    for path in ["/v1/chat/completions", "/v1/completions"] {
        let body = json!({"model": "tiny", "prompt": "x", "messages": [{"role": "user", "content": "x"}]});
        let answer = gateway.post(path, body).await;
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("40")));
        assert_eq!(answer.error().0, "the model 'tiny' is not ready: loading weights, 40 % done");
    }
    let answer = gateway.get("/v1/models/tiny").await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("40")));
    assert_eq!(gateway.get("/v1/models").await.json()["data"], json!([]));
    gateway.routes.update(|routes| routes[0].availability = Availability::Ready);
    assert_eq!(gateway.chat(json!({})).await.status, 200);
}

#[tokio::test]
async fn an_unreachable_runtime_is_503_without_addresses() {
    let gateway = gateway(greet).await;
    let backend = kindling_gateway::Backend::at("127.0.0.1:1").unwrap();
    gateway.routes.update(|routes| routes[0].backend = Some(backend));
    let answer = gateway.chat(json!({})).await;
    assert_eq!(answer.status, 503);
    assert!(answer.header("retry-after").is_some());
    assert_eq!(answer.error().0, "the model's runtime can't be reached at the moment; try again");
}

#[tokio::test]
async fn an_unknown_model_is_404() {
    let gateway = gateway(greet).await;
    let answer = gateway.chat(json!({"model": "gpt-9"})).await;
    assert_eq!(answer.status, 404);
    let (message, kind, param, code) = answer.error();
    assert_eq!(message, "the model 'gpt-9' does not exist; ready models: tiny");
    assert_eq!((kind.as_str(), param.as_deref()), ("invalid_request_error", Some("model")));
    assert_eq!(code.as_deref(), Some("model_not_found"));
    gateway.metric(r#"kindling_gateway_requests_total{code="404",model="unknown",route="chat_completions"} 1"#).await;
}

#[tokio::test]
async fn unknown_paths_are_404_and_wrong_methods_405_as_json() {
    let gateway = gateway(greet).await;
    for path in ["/", "/v1", "/v1/", "/v1/chat", "/api/tags", "/api/v1/models", "/props", "/v1/props"] {
        let answer = gateway.get(path).await;
        assert_eq!((answer.status, answer.error().3.as_deref()), (404, Some("unknown_url")), "{path}");
        assert!(answer.header("x-request-id").is_some());
    }
    assert_eq!(gateway.get("/v1/chat/completions").await.status, 405);
    let answer = gateway.post("/v1/models", json!({})).await;
    assert_eq!((answer.status, answer.error().3.as_deref()), (405, Some("method_not_allowed")));
    assert!(answer.header("allow").is_some_and(|allow| allow.contains("GET")));
}

#[tokio::test]
async fn every_answer_has_a_request_id() {
    let gateway = gateway(greet).await;
    let request = gateway.http.get(format!("{}/version", gateway.url)).header("x-request-id", "mine-1");
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["x-request-id"], "mine-1");
    assert!(response.headers().contains_key("openai-processing-ms"));
    let request = gateway.http.get(format!("{}/version", gateway.url)).header("x-request-id", "not sane!");
    assert!(request.send().await.unwrap().headers()["x-request-id"].to_str().unwrap().starts_with("req_"));
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_504() {
    let limit = Duration::from_millis(50);
    let gateway = gateway_with(|_: &_| vec![Step::Hang], |config| config.timeouts.request = limit).await;
    let answer = gateway.chat(json!({})).await;
    assert_eq!((answer.status, answer.error().3.as_deref()), (504, Some("timeout")));
    gateway.aborted(1).await;
}

#[tokio::test]
async fn a_prompt_that_is_too_long_is_told_by_the_field_it_came_from() {
    let gateway = gateway(|_: &_| vec![Step::Refuse(Status::out_of_range("too long"))]).await;
    assert_eq!(gateway.chat(json!({})).await.error().2.as_deref(), Some("messages"));
    assert_eq!(gateway.complete(json!({})).await.error().2.as_deref(), Some("prompt"));
}

/// A way to a runtime that ends when the sender is dropped.
async fn breakable(runtime: std::net::SocketAddr) -> (String, tokio::sync::oneshot::Sender<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a loopback port should be free");
    let address = listener.local_addr().expect("a listener should have an address").to_string();
    let (sender, broken) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.expect("the gateway should connect");
        let mut far = tokio::net::TcpStream::connect(runtime).await.expect("the runtime should listen");
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
            _ = broken => {}
        }
    });
    (address, sender)
}

#[tokio::test]
async fn a_runtime_that_dies_in_the_middle_is_503() {
    for stream in [false, true] {
        let gateway = gateway(|_: &_| vec![prompt(3), content(0, "one"), Step::Hang]).await;
        let (address, way) = breakable(gateway.runtime.listen().await).await;
        gateway.routes.update(|routes| routes[0].backend = Some(Backend::at(&address).unwrap()));
        let breaks = async {
            while gateway.runtime.requests.lock().unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            // So that the first words are on their way.
            tokio::time::sleep(Duration::from_millis(100)).await;
            drop(way);
        };
        let extra = json!({"stream": stream});
        let (answer, ()) = tokio::join!(gateway.chat(extra), breaks);
        assert_eq!(answer.status, if stream { 200 } else { 503 }, "{}", answer.text);
        assert_eq!(stream, answer.text.contains("one"), "{}", answer.text);
        assert!(answer.text.contains("runtime can't be reached at the moment; try again"), "{}", answer.text);
        assert!(answer.text.contains("model_unavailable"), "{}", answer.text);
    }
}

#[tokio::test]
async fn later_prompts_wait_for_a_place_in_a_full_queue() {
    let num_asked = std::sync::atomic::AtomicU32::new(0);
    let gateway = gateway(move |request: &_| {
        // Two prompts: the second is refused twice.
        match num_asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            1 | 2 => vec![Step::Refuse(Status::resource_exhausted("the waiting queue is full"))],
            _ => greet(request),
        }
    })
    .await;
    let answer = gateway.complete(json!({"prompt": ["a", "b"]})).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.json()["choices"].as_array().unwrap().len(), 2);
}
