//! Structured output: what of it reaches the runtime, and what a runtime's refusal becomes.

use kindling_proto::v1::structured_output::Kind;
use kindling_proto::v1::{Choice, JsonObject};
use kindling_proto::{REFUSED_FIELD, STRUCTURED_OUTPUT};
use serde_json::{Value, json};
use tonic::Status;

use crate::fake_runtime::{Step, greet};
use crate::harness::gateway;
use crate::openai_scripted::{events, scripted};

#[tokio::test]
async fn every_form_reaches_the_runtime() {
    let gateway = gateway(greet).await;
    let schema = json!({"type": "object", "properties": {"b": {}, "a": {}}});
    let text = schema.to_string();
    let as_schema = || Some(Kind::JsonSchema(text.clone()));
    let choices = || Some(Kind::Choice(Choice { choices: vec!["a".into(), "b".into()] }));
    let object = || Some(Kind::JsonObject(JsonObject {}));
    let table = [
        (json!({"response_format": {"type": "text"}}), None),
        (json!({"response_format": {"type": "json_object"}}), object()),
        (
            json!({"response_format": {"type": "json_schema",
                "json_schema": {"name": "x", "strict": true, "description": "d", "schema": schema}}}),
            as_schema(),
        ),
        (json!({"structured_outputs": {"json": schema}}), as_schema()),
        (json!({"structured_outputs": {"json": text}}), as_schema()),
        (json!({"structured_outputs": {"json_object": true}}), object()),
        (json!({"structured_outputs": {"regex": "a+"}}), Some(Kind::Regex("a+".into()))),
        (json!({"structured_outputs": {"choice": ["a", "b"]}}), choices()),
        (json!({"structured_outputs": {"grammar": "start: \"a\""}}), Some(Kind::Grammar("start: \"a\"".into()))),
        (json!({"guided_json": schema}), as_schema()),
        (json!({"guided_regex": "a+"}), Some(Kind::Regex("a+".into()))),
        (json!({"guided_choice": ["a", "b"], "response_format": {"type": "text"}}), choices()),
        (json!({"guided_grammar": "start: \"a\"", "guided_json": null}), Some(Kind::Grammar("start: \"a\"".into()))),
    ];
    for (extra, expected) in table {
        for path in ["chat", "completions"] {
            let answer = match path {
                "chat" => gateway.chat(extra.clone()).await,
                _ => gateway.complete(extra.clone()).await,
            };
            assert_eq!(answer.status, 200, "{extra}: {}", answer.text);
            assert_eq!(gateway.asked().structured_output.and_then(|form| form.kind), expected, "{path}: {extra}");
        }
    }
}

#[tokio::test]
async fn what_is_no_form_is_refused_with_its_field() {
    let gateway = gateway(greet).await;
    for (extra, field) in [
        (json!({"response_format": {"type": "xml"}}), "response_format.type"),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}),
            "response_format.json_schema.schema",
        ),
        (json!({"response_format": {}}), "response_format"),
        (json!({"response_format": "json"}), "response_format"),
        (json!({"structured_outputs": {"structural_tag": {}}}), "structured_outputs.structural_tag"),
        (json!({"structured_outputs": {"regex": "a", "json": {}}}), "structured_outputs.regex"),
        (json!({"guided_regex": "a", "response_format": {"type": "json_object"}}), "guided_regex"),
        (json!({"guided_choice": "a"}), "guided_choice"),
    ] {
        let answer = gateway.chat(extra.clone()).await;
        let (message, kind, param, _) = answer.error();
        assert_eq!((answer.status, kind.as_str()), (400, "invalid_request_error"), "{extra}: {message}");
        assert_eq!(param.as_deref(), Some(field), "{extra}: {message}");
    }
}

#[tokio::test]
async fn a_refusal_of_the_form_names_the_client_s_field() {
    let refuse = |_: &_| {
        let mut status = Status::invalid_argument("json_schema: Invalid type: objekt");
        let value = STRUCTURED_OUTPUT.parse().expect("a field's name should be ASCII");
        status.metadata_mut().insert(REFUSED_FIELD, value);
        vec![Step::Refuse(status)]
    };
    let gateway = gateway(refuse).await;
    let answer = gateway.chat(json!({"guided_json": {"type": "objekt"}, "stream": true})).await;
    let (message, _, param, _) = answer.error();
    assert_eq!((answer.status, param.as_deref()), (400, Some("guided_json")));
    assert_eq!(message, "guided_json: json_schema: Invalid type: objekt");
}

/// From end to end: the script would say something else, and can say only what the form allows.
#[tokio::test]
async fn a_form_holds_whatever_the_model_would_say() {
    let script = "- outputs: [{play: \"Certainly! Here is your answer.\", then: repeat}]";
    let scripted = scripted(script, 512).await;
    let schema = json!({"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"],
        "additionalProperties": false});
    let format = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
    let answer =
        scripted.gateway.chat(json!({"response_format": format, "stream": true, "n": 2, "temperature": 2})).await;
    for index in 0..2 {
        let events = events(&answer);
        let choices = events.iter().map(|event| &event["choices"][0]).filter(|choice| choice["index"] == index);
        let (mut text, mut reason) = (String::new(), Value::Null);
        for choice in choices {
            text += choice["delta"]["content"].as_str().unwrap_or_default();
            reason = choice["finish_reason"].clone();
        }
        let value: Value = serde_json::from_str(&text).expect("it should be JSON");
        assert!(value["ok"].is_boolean() && value.as_object().is_some_and(|members| members.len() == 1), "{text}");
        assert_eq!(reason, "stop");
    }
    let refused = scripted.gateway.chat(json!({"guided_regex": "("})).await;
    assert_eq!((refused.status, refused.error().2.as_deref()), (400, Some("guided_regex")));
}
