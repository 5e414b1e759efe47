//! What of a request reaches the runtime.

use kindling_proto::v1::ChatMessage;
use kindling_proto::v1::generate_request::Input;
use serde_json::{Value, json};

use crate::fake_runtime::greet;
use crate::harness::gateway;

#[tokio::test]
async fn every_parameter_reaches_the_runtime() {
    let gateway = gateway(greet).await;
    let answer = gateway
        .chat(json!({
            "temperature": 0, "top_p": 0.5, "top_k": 40, "min_p": 0.1, "seed": -1, "n": 2,
            "presence_penalty": 1, "frequency_penalty": -1, "repetition_penalty": 1.1, "logit_bias": {"7": -100},
            "max_tokens": 5, "max_completion_tokens": 6, "stop": "END", "stop_token_ids": [9], "ignore_eos": true,
            "logprobs": true, "top_logprobs": 3, "add_generation_prompt": false,
            "chat_template_kwargs": {"enable_thinking": false}, "reasoning_effort": "low"
        }))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let asked = gateway.asked();
    let sampling = asked.sampling.unwrap();
    assert_eq!((sampling.temperature, sampling.top_p, sampling.top_k), (Some(0.0), Some(0.5), Some(40)));
    assert_eq!((sampling.min_p, sampling.seed), (Some(0.1), Some(u64::MAX)));
    assert_eq!((sampling.presence_penalty, sampling.frequency_penalty), (Some(1.0), Some(-1.0)));
    assert_eq!((sampling.repetition_penalty, sampling.logit_bias[&7]), (Some(1.1), -100.0));
    let stopping = asked.stopping.unwrap();
    assert_eq!((stopping.max_tokens, stopping.ignore_eos), (Some(6), true));
    assert_eq!((stopping.stop_strings, stopping.stop_token_ids), (vec!["END".to_owned()], vec![9]));
    assert_eq!((asked.n, asked.logprobs), (2, Some(3)));
    let Some(Input::Chat(chat)) = asked.input else { panic!("not a chat") };
    assert_eq!(chat.add_generation_prompt, Some(false));
    assert_eq!(chat.template_kwargs_json, r#"{"enable_thinking":false,"reasoning_effort":"low"}"#);
    assert!(asked.request_id.starts_with("chatcmpl-"));
    assert_eq!(answer.json()["id"], asked.request_id.as_str());
}

#[tokio::test]
async fn what_is_left_out_or_null_stays_unset() {
    let gateway = gateway(greet).await;
    let nulls = [
        "temperature",
        "top_p",
        "top_k",
        "seed",
        "n",
        "max_tokens",
        "stop",
        "stream",
        "stream_options",
        "logprobs",
        "top_logprobs",
        "tools",
        "tool_choice",
        "response_format",
        "logit_bias",
        "user",
        "chat_template_kwargs",
        "presence_penalty",
        "add_generation_prompt",
        "ignore_eos",
        "stop_token_ids",
        "functions",
    ];
    for extra in [json!({}), nulls.iter().map(|key| (key.to_string(), Value::Null)).collect()] {
        assert_eq!(gateway.chat(extra).await.status, 200);
        let asked = gateway.asked();
        assert_eq!(asked.sampling.unwrap(), Default::default());
        assert_eq!(asked.stopping.unwrap(), Default::default());
        assert_eq!((asked.n, asked.logprobs), (1, None));
    }
}

#[tokio::test]
async fn unknown_and_neutral_fields_are_accepted() {
    let gateway = gateway(greet).await;
    let extra = json!({
        "store": false, "metadata": {"a": "b"}, "user": "me", "service_tier": "auto", "prompt_cache_key": "k",
        "parallel_tool_calls": true, "response_format": {"type": "text"}, "tools": [], "never_heard_of": [1, {"x": 2}],
        "top_k": -1, "min_tokens": 0
    });
    assert_eq!(gateway.chat(extra).await.status, 200);
    let offered = json!({"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "none"});
    assert_eq!(gateway.chat(offered).await.status, 200);
}

#[tokio::test]
async fn a_conversation_reaches_the_runtime_in_its_form() {
    let gateway = gateway(greet).await;
    let calls = json!([{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]);
    let answer = gateway
        .chat(json!({"messages": [
            {"role": "developer", "content": "Be brief. ✓"},
            {"role": "user", "name": "ann", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": null, "tool_calls": calls, "reasoning_content": "hm"},
            {"role": "tool", "tool_call_id": "c1", "content": "42"},
            {"role": "assistant", "content": "", "refusal": null}
        ]}))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let Some(Input::Chat(chat)) = gateway.asked().input else { panic!("not a chat") };
    let message =
        |role: &str, content: &str| ChatMessage { role: role.into(), content: content.into(), ..Default::default() };
    assert_eq!(
        chat.messages,
        [
            message("system", "Be brief. ✓"),
            ChatMessage { name: "ann".into(), ..message("user", "a\nb") },
            ChatMessage { tool_calls_json: calls.to_string(), ..message("assistant", "") },
            ChatMessage { tool_call_id: "c1".into(), ..message("tool", "42") },
            message("assistant", ""),
        ]
    );
}
