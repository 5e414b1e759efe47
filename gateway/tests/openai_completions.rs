//! Text completions.

use kindling_proto::v1::generate_request::Input;
use serde_json::json;

use crate::fake_runtime::greet;
use crate::harness::{assert_golden, gateway};

#[tokio::test]
async fn streams_text_completion() {
    let gateway = gateway(greet).await;
    let answer = gateway.complete(json!({"stream": true, "stream_options": {"include_usage": true}})).await;
    assert_golden("text_stream.sse", &answer.text);
}

#[tokio::test]
async fn streams_text_logprobs() {
    let gateway = gateway(greet).await;
    let answer = gateway.complete(json!({"stream": true, "logprobs": 1})).await;
    assert_golden("text_stream_logprobs.sse", &answer.text);
}

#[tokio::test]
async fn answers_text_completion_with_logprobs() {
    let gateway = gateway(greet).await;
    assert_golden("text.json", &gateway.complete(json!({"logprobs": 0})).await.text);
}

#[tokio::test]
async fn several_prompts_are_numbered_through() {
    let gateway = gateway(greet).await;
    let body = gateway.complete(json!({"prompt": ["a", "b", "c", "d", "e"], "n": 2, "max_tokens": 1})).await.json();
    let indices: Vec<_> = body["choices"].as_array().unwrap().iter().map(|c| c["index"].as_u64().unwrap()).collect();
    assert_eq!(indices, (0..10).collect::<Vec<_>>());
    assert!(body["choices"].as_array().unwrap().iter().all(|choice| choice["text"] == "Hello"));
    assert_eq!(body["usage"]["prompt_tokens"], 55);
    assert_eq!(body["usage"]["completion_tokens"], 10);
    assert_eq!(gateway.runtime.requests.lock().unwrap().len(), 5);
}

#[tokio::test]
async fn token_ids_reach_the_runtime_as_they_are() {
    let gateway = gateway(greet).await;
    assert_eq!(gateway.complete(json!({"prompt": [1, 2, 3]})).await.status, 200);
    let Some(Input::TokenIds(tokens)) = gateway.asked().input else { panic!("not token ids") };
    assert_eq!(tokens.ids, [1, 2, 3]);
}

#[tokio::test]
async fn what_is_not_supported_is_refused_by_name() {
    let gateway = gateway(greet).await;
    for (extra, param) in [
        (json!({"echo": true}), "echo"),
        (json!({"best_of": 3}), "best_of"),
        (json!({"suffix": "x"}), "suffix"),
        (json!({"logprobs": 6}), "logprobs"),
        (json!({"prompt": []}), "prompt"),
        (json!({"prompt": null}), "prompt"),
        (json!({"prompt": ["a", 1]}), "prompt[1]"),
        (json!({"prompt": [1.5]}), "prompt[0]"),
    ] {
        let answer = gateway.complete(extra.clone()).await;
        assert_eq!(answer.status, 400, "{extra}");
        assert_eq!(answer.error().2.as_deref(), Some(param), "{extra}");
    }
    let accepted = json!({"echo": false, "best_of": 1, "suffix": null, "logprobs": null});
    assert_eq!(gateway.complete(accepted).await.status, 200);
}
