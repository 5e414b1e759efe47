//! Outputs that a small model never makes, from a real runtime that plays a script (docs/scripted-engine.md). Its
//! tokenizer has one token for each byte.

use std::time::{Duration, Instant};

use kindling_gateway::Backend;
use kindling_runtime::{Runtime, RuntimeConfig, Script};
use serde_json::{Value, json};

use crate::fake_runtime::greet;
use crate::harness::{Answer, Gateway, gateway, hello, merged};
use crate::tiny_model::{TempDir, tiny_model};

pub struct Scripted {
    pub gateway: Gateway,
    runtime: Runtime,
    _model: TempDir,
}

/// A gateway in front of a runtime that plays `script`, with room for `context` tokens.
pub async fn scripted(script: &str, context: usize) -> Scripted {
    let model = tiny_model();
    let path = model.0.join("config.json");
    let mut config: Value =
        serde_json::from_slice(&std::fs::read(&path).expect("the model should be there")).expect("it should be JSON");
    config["max_position_embeddings"] = context.into();
    std::fs::write(&path, config.to_string()).expect("the model should be writable");
    let script = Some(Script::parse(script).expect("the script should be right"));
    let runtime = Runtime::start(RuntimeConfig { script, ..RuntimeConfig::new(&model.0) });
    runtime.ready().await.expect("the runtime should be ready");
    let gateway = gateway(greet).await;
    gateway.routes.update(|routes| routes[0].backend = Some(Backend::new(runtime.connect_in_process())));
    Scripted { gateway, runtime, _model: model }
}

/// The data of every event of a stream.
pub fn events(answer: &Answer) -> Vec<Value> {
    let data = answer.text.split("\n\n").filter_map(|block| block.strip_prefix("data: "));
    data.filter(|data| *data != "[DONE]")
        .map(|data| serde_json::from_str(data).expect("an event should be JSON"))
        .collect()
}

fn contents(events: &[Value]) -> Vec<&str> {
    events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect()
}

fn user(text: &str) -> Value {
    json!([{"role": "user", "content": text}])
}

#[tokio::test]
async fn characters_of_many_tokens_arrive_whole() {
    let text = "Grüße 😀 漢字";
    let Scripted { gateway, .. } = scripted(&format!("- outputs: [{{play: \"{text}\"}}]"), 512).await;
    let answer = gateway.chat(json!({"stream": true, "stream_options": {"include_usage": true}})).await;
    let events = events(&answer);
    let contents = contents(&events);
    assert_eq!(contents.concat(), text);
    assert!(contents.contains(&"😀") && contents.iter().all(|piece| !piece.contains('\u{fffd}')), "{contents:?}");
    // A token for each byte, and the end.
    let usage = &events.last().expect("there should be events")["usage"];
    assert_eq!(usage["completion_tokens"], text.len() + 1);
}

#[tokio::test]
async fn half_a_character_at_the_end_is_replaced() {
    // The first two of the four bytes of an emoji, as tokens.
    let Scripted { gateway, .. } = scripted("- outputs: [{play: [\"a\", 243, 162], then: stop}]", 512).await;
    let answer = gateway.chat(json!({})).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"], "a\u{fffd}");
}

#[tokio::test]
async fn a_stop_string_over_token_borders_is_cut_out() {
    let script = "- outputs: [{play: [\"one <EN\", \"D-not> two <E\", \"ND> three\"]}]";
    let Scripted { gateway, .. } = scripted(script, 512).await;
    for stream in [false, true] {
        let answer = gateway.chat(json!({"stop": "<END>", "stream": stream})).await;
        let (text, reason) = if stream {
            let events = events(&answer);
            let last = events.last().expect("there should be events");
            (contents(&events).concat(), last["choices"][0]["finish_reason"].clone())
        } else {
            let choice = &answer.json()["choices"][0];
            (choice["message"]["content"].as_str().unwrap_or_default().to_owned(), choice["finish_reason"].clone())
        };
        assert_eq!((text.as_str(), reason.as_str()), ("one <END-not> two ", Some("stop")));
    }
}

#[tokio::test]
async fn a_very_long_output_ends_by_length_and_loses_nothing() {
    const TOKENS: usize = 10_000;
    let Scripted { gateway, .. } = scripted("- outputs: [{play: \"0123456789\", then: repeat}]", 16_384).await;
    let answer = gateway.chat(json!({"stream": true, "max_tokens": TOKENS})).await;
    let events = events(&answer);
    assert_eq!(contents(&events).concat(), "0123456789".repeat(TOKENS / 10));
    assert_eq!(events.last().expect("there should be events")["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn an_error_in_the_middle_ends_its_stream_and_no_other() {
    let script = r#"
- when: break
  outputs: [{play: abc, then: fail, token_ms: 5}]
- outputs: [{play: "all of it", token_ms: 5}]
"#;
    let Scripted { gateway, .. } = scripted(script, 512).await;
    let broken = gateway.chat(json!({"messages": user("break"), "stream": true}));
    let whole = gateway.chat(json!({"stream": true}));
    let (broken, whole) = tokio::join!(broken, whole);
    assert_eq!(contents(&events(&whole)).concat(), "all of it");
    let events = events(&broken);
    assert_eq!(contents(&events).concat(), "abc");
    assert_eq!(events.last().expect("there should be events")["error"]["type"], "server_error");
    assert!(!broken.text.contains("[DONE]"), "{}", broken.text);
    let whole = gateway.chat(json!({"messages": user("break")})).await;
    assert_eq!((whole.status, whole.error().1.as_str()), (500, "server_error"));
}

#[tokio::test]
async fn outputs_are_taken_in_turn_and_choices_take_one_each() {
    let Scripted { gateway, .. } = scripted("- outputs: [{play: a}, {play: b}, {play: c}]", 512).await;
    let texts = |answer: Answer| {
        let choices = answer.json()["choices"].as_array().expect("choices should be a list").clone();
        choices.iter().map(|choice| choice["message"]["content"].to_string()).collect::<String>()
    };
    assert_eq!(texts(gateway.chat(json!({"n": 2})).await), r#""a""b""#);
    assert_eq!(texts(gateway.chat(json!({"n": 2, "temperature": 2, "logit_bias": {"100": 100}})).await), r#""c""a""#);
}

#[tokio::test]
async fn a_slow_token_keeps_nobody_from_hanging_up() {
    let Scripted { gateway, runtime, _model } = scripted("- outputs: [{play: a, first_token_ms: 600000}]", 512).await;
    let started = Instant::now();
    let body = merged(hello(), json!({"stream": true})).to_string();
    let url = format!("{}/v1/chat/completions", gateway.url);
    let call = gateway.http.post(url).body(body).timeout(Duration::from_millis(300)).send().await;
    // Either the head or nothing came; the client is gone now.
    drop(call);
    let aborted = "kindling_runtime_requests_total{finish_reason=\"abort\"} 1";
    while !runtime.metrics_text().contains(aborted) {
        assert!(started.elapsed() < Duration::from_secs(30), "{}", runtime.metrics_text());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
