//! Outputs in the form that was asked for: with a tiny model whose tokens are bytes, and with the sample model.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic and print")]

mod common;

use std::time::Duration;

use common::{Answer, TestBackend, generate, load, start_sample, start_tiny, text_request, wait_for_load};
use futures::future::join_all;
use kindling_proto::v1::structured_output::Kind;
use kindling_proto::v1::{Choice, FinishReason, GenerateRequest, JsonObject, Sampling, Stopping, StructuredOutput};
use kindling_proto::{REFUSED_FIELD, STRUCTURED_OUTPUT};
use kindling_runtime::Runtime;
use serde_json::{Value as Json, json};
use tonic::Code;

/// At temperature 1, ended by the model or the form.
fn request(prompt: &str, kind: Kind, seed: u64, max_tokens: u32) -> GenerateRequest {
    GenerateRequest {
        sampling: Some(Sampling { temperature: Some(1.0), seed: Some(seed), ..Sampling::default() }),
        stopping: Some(Stopping { max_tokens: Some(max_tokens), ..Stopping::default() }),
        structured_output: Some(StructuredOutput { kind: Some(kind) }),
        ..text_request(prompt, 0)
    }
}

fn regex(text: &str) -> Kind {
    Kind::Regex(text.to_owned())
}

fn choice(choices: &[&str]) -> Kind {
    Kind::Choice(Choice { choices: choices.iter().map(|choice| (*choice).to_owned()).collect() })
}

fn reason(answer: &Answer, index: u32) -> FinishReason {
    answer.finish(index).reason()
}

fn metric(runtime: &Runtime, name: &str) -> String {
    let text = runtime.metrics_text();
    text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}")).trim().to_owned()
}

#[tokio::test]
async fn every_kind_of_form_holds_for_every_completion() {
    let tiny = start_tiny(TestBackend::default(), |_| {}).await;
    for seed in 0..20 {
        let answer = generate(&tiny.client, request("x", regex("[0-9]{3}-[a-f]{2}"), seed, 100)).await.unwrap();
        let text = answer.text(0).into_bytes();
        assert_eq!((text.len(), text[3]), (6, b'-'), "{text:?}");
        assert!(text[..3].iter().all(u8::is_ascii_digit) && text[4..].iter().all(|byte| (b'a'..=b'f').contains(byte)));
        // Nothing can follow: it ends without a token more.
        assert_eq!((reason(&answer, 0), answer.tokens(0).len()), (FinishReason::Stop, 6));
        assert_eq!(answer.finish(0).stop_token_id, None);

        let several = GenerateRequest { n: 3, ..request("x", choice(&["yes", "yesterday", "no"]), seed, 100) };
        let answer = generate(&tiny.client, several).await.unwrap();
        for index in 0..3 {
            assert!(["yes", "yesterday", "no"].contains(&answer.text(index).as_str()), "{}", answer.text(index));
            assert_eq!(reason(&answer, index), FinishReason::Stop);
        }

        let lark = Kind::Grammar("start: \"(\" start \")\" | \"o\"".to_owned());
        let text = generate(&tiny.client, request("x", lark, seed, 400)).await.unwrap().text(0);
        let depth = text.find('o').unwrap();
        assert_eq!(text, format!("{}o{}", "(".repeat(depth), ")".repeat(depth)));

        let schema = json!({ "type": "object", "properties": { "ok": { "type": "boolean" }, "n": { "type": "integer",
            "minimum": -99, "maximum": 99 } }, "required": ["ok", "n"], "additionalProperties": false });
        let answer =
            generate(&tiny.client, request("x", Kind::JsonSchema(schema.to_string()), seed, 300)).await.unwrap();
        let value: Json = serde_json::from_str(&answer.text(0)).unwrap_or_else(|e| panic!("{e}: {}", answer.text(0)));
        assert!(value["ok"].is_boolean() && value["n"].as_i64().unwrap().abs() < 100, "{value}");
    }
    let load = load(&tiny.client).await;
    assert_eq!((load.requests_running, load.kv_blocks_used), (0, 0));
}

#[tokio::test]
async fn max_tokens_ends_a_form_early_by_length() {
    let tiny = start_tiny(TestBackend::default(), |_| {}).await;
    let answer = generate(&tiny.client, request("x", Kind::JsonObject(JsonObject {}), 1, 3)).await.unwrap();
    assert_eq!((reason(&answer, 0), answer.tokens(0).len()), (FinishReason::Length, 3));
    assert!(answer.text(0).starts_with('{'));
    // The last token that is possible may also be the last one of the form: then it is complete.
    let answer = generate(&tiny.client, request("x", choice(&["abc"]), 1, 3)).await.unwrap();
    assert_eq!((reason(&answer, 0), answer.text(0).as_str()), (FinishReason::Stop, "abc"));
}

#[tokio::test]
async fn bias_stop_strings_and_ignored_ends_cannot_break_a_form() {
    let tiny = start_tiny(TestBackend::default(), |_| {}).await;
    let mut biased = request("x", regex("[ab]{4}"), 3, 100);
    biased.sampling.as_mut().unwrap().logit_bias = [(common::byte_token(b'z'), 100.0), (2, 100.0)].into();
    biased.stopping.as_mut().unwrap().ignore_eos = true;
    let answer = generate(&tiny.client, biased).await.unwrap();
    assert_eq!((answer.text(0).len(), reason(&answer, 0)), (4, FinishReason::Stop));
    let mut stopped = request("x", choice(&["one two"]), 3, 100);
    stopped.stopping.as_mut().unwrap().stop_strings = vec![" t".to_owned()];
    let answer = generate(&tiny.client, stopped).await.unwrap();
    assert_eq!((answer.text(0).as_str(), answer.finish(0).stop_string.as_deref()), ("one", Some(" t")));
}

#[tokio::test]
async fn preempted_and_batched_forms_are_what_they_are_alone() {
    // A small cache and small steps: prompts in chunks, preemptions.
    let tiny = start_tiny(TestBackend::default(), |config| {
        config.kv_tokens = Some(160);
        config.max_batched_tokens = 24;
    })
    .await;
    let requests: Vec<GenerateRequest> = (0..6)
        .map(|index| {
            let prompt = "some words ".repeat(1 + index % 4);
            match index % 3 {
                0 => text_request(&prompt, 70),
                1 => request(&prompt, regex("[a-z]{60}"), index as u64, 70),
                _ => request(&prompt, regex("([0-9]{3} ){18}"), index as u64, 90),
            }
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
    assert_ne!(metric(&tiny.runtime, "kindling_runtime_preemptions_total"), "0");
}

#[tokio::test]
async fn hanging_up_half_way_leaves_nothing_behind() {
    let slow = TestBackend { step_time: Duration::from_millis(5), ..TestBackend::default() };
    let tiny = start_tiny(slow, |_| {}).await;
    for _ in 0..3 {
        let call = request("x", regex("[a-z]*"), 1, 400);
        let mut stream = tiny.client.clone().generate(call).await.unwrap().into_inner();
        for _ in 0..4 {
            stream.message().await.unwrap().unwrap();
        }
        drop(stream);
    }
    wait_for_load(&tiny.client, |load| load.kv_blocks_used == 0 && load.requests_running == 0).await;
    let answer = generate(&tiny.client, request("x", choice(&["fine"]), 1, 10)).await.unwrap();
    assert_eq!(answer.text(0), "fine");
}

#[tokio::test]
async fn a_form_that_cannot_be_used_is_an_invalid_argument_that_names_it() {
    let tiny = start_tiny(TestBackend::default(), |_| {}).await;
    for (kind, expected) in [
        (Kind::JsonSchema("{\"type\": \"objekt\"}".to_owned()), "json_schema: Invalid type: objekt"),
        (regex("("), "regex: "),
        (choice(&[]), "choice: it is empty"),
        (Kind::Grammar("nonsense".to_owned()), "grammar: "),
    ] {
        let status = generate(&tiny.client, request("x", kind, 1, 5)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().starts_with(expected), "{}", status.message());
        assert_eq!(status.metadata().get(REFUSED_FIELD).unwrap(), STRUCTURED_OUTPUT);
    }
    let mut unknown = request("x", regex("a"), 1, 5);
    unknown.structured_output = Some(StructuredOutput { kind: None });
    let status = generate(&tiny.client, unknown).await.unwrap_err();
    assert_eq!(status.message(), "structured_output is of no known kind, it must be of one");
    assert_eq!(load(&tiny.client).await.requests_waiting, 0);
}

#[tokio::test]
async fn a_form_that_is_slow_to_compile_stalls_nobody() {
    let slow = TestBackend { step_time: Duration::from_millis(1), ..TestBackend::default() };
    let tiny = start_tiny(slow, |_| {}).await;
    let mut stream = tiny.client.clone().generate(text_request("x", 500)).await.unwrap().into_inner();
    let properties: serde_json::Map<_, _> = (0..2500).map(|n| (format!("p{n}"), json!({ "type": "string" }))).collect();
    let schema = json!({ "type": "object", "properties": properties }).to_string();
    let client = tiny.client.clone();
    let hostile = tokio::spawn(async move { generate(&client, request("x", Kind::JsonSchema(schema), 1, 4)).await });
    let mut meanwhile = 0;
    while stream.message().await.unwrap().is_some() {
        meanwhile += usize::from(!hostile.is_finished());
    }
    println!("{meanwhile} messages beside the compiler");
    // What the stream's own queue may hold does not count: these were computed while the form was compiled.
    assert!(meanwhile > 50, "{meanwhile}");
    // Refused or served: either way it ends.
    println!("{:?}", hostile.await.unwrap().map(|answer| answer.text(0)).map_err(|status| status.message().to_owned()));
}

const PERSON: &str = r##"{
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "mood": {"enum": ["happy", "sad", "it depends"]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 8}, "minItems": 1, "maxItems": 3},
        "address": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/address"}]}
    },
    "required": ["name", "age", "mood", "tags", "address"],
    "additionalProperties": false,
    "$defs": {"address": {"type": "object", "properties": {"zip": {"type": "string", "pattern": "^[0-9]{5}$"}},
        "required": ["zip"], "additionalProperties": false}}
}"##;

/// The schema in plain Rust: what it says is not left to the library that is tested.
fn check_person(text: &str) {
    let person: Json = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let keys: Vec<&String> = person.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["name", "age", "mood", "tags", "address"], "{text}");
    assert!((1..=20).contains(&person["name"].as_str().unwrap().chars().count()), "{text}");
    assert!((0..=120).contains(&person["age"].as_u64().unwrap()), "{text}");
    assert!(["happy", "sad", "it depends"].contains(&person["mood"].as_str().unwrap()), "{text}");
    let tags = person["tags"].as_array().unwrap();
    assert!((1..=3).contains(&tags.len()), "{text}");
    assert!(tags.iter().all(|tag| tag.as_str().unwrap().chars().count() <= 8), "{text}");
    if !person["address"].is_null() {
        let zip = person["address"]["zip"].as_str().unwrap();
        assert!(zip.len() == 5 && zip.bytes().all(|byte| byte.is_ascii_digit()), "{text}");
    }
}

#[tokio::test]
async fn the_sample_model_always_gives_json_of_the_schema() {
    let Some((runtime, client)) = start_sample().await else { return };
    let prompt = "<|im_start|>user\nDescribe a person.<|im_end|>\n<|im_start|>assistant\n";
    let calls = (0..24).map(|seed| request(prompt, Kind::JsonSchema(PERSON.to_owned()), seed, 600));
    let answers = join_all(calls.map(|call| generate(&client, call))).await;
    for (seed, answer) in answers.into_iter().enumerate() {
        let answer = answer.unwrap();
        assert_eq!(reason(&answer, 0), FinishReason::Stop, "seed {seed}: {}", answer.text(0));
        check_person(&answer.text(0));
        if seed < 3 {
            println!("{}", answer.text(0));
        }
    }
    let sum: f64 = metric(&runtime, "kindling_runtime_grammar_mask_seconds_sum").parse().unwrap();
    let count: f64 = metric(&runtime, "kindling_runtime_grammar_mask_seconds_count").parse().unwrap();
    println!("{count} masks, {:.1} µs each", 1e6 * sum / count);
    assert!(count > 24.0 * 20.0);
}

#[tokio::test]
async fn requests_without_a_form_are_the_same_beside_those_with_one() {
    let Some((_runtime, client)) = start_sample().await else { return };
    let plain = |seed| {
        let mut call = request("Once upon a time", regex("x"), seed, 40);
        call.structured_output = None;
        call
    };
    let mut alone = Vec::new();
    for seed in 0..3 {
        alone.push(generate(&client, plain(seed)).await.unwrap().tokens(0));
    }
    let formed = (0..2).map(|seed| request("A person: ", Kind::JsonSchema(PERSON.to_owned()), seed, 40));
    let calls: Vec<GenerateRequest> = (0..3).map(plain).chain(formed).collect();
    let together = join_all(calls.iter().map(|call| generate(&client, call.clone()))).await;
    for (together, alone) in together.into_iter().zip(alone) {
        assert_eq!(together.unwrap().tokens(0), alone);
    }
}
