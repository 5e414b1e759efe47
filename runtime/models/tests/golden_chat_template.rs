//! Chat templates against jinja2 as `transformers` sets it up; recorded by `golden/record_chat_templates.py`.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "this is test code, helpers included")]

mod common;

use common::{golden, read_json, text};
use jiff::Timestamp;
use kindling_models::{ChatTemplate, Message, RenderInput, SpecialTokens, TemplateError};
use serde_json::{Map, Value};

/// Corners where the engine differs from jinja2: it has no `%` for strings. No known published template has them.
const DIFFERENT: &[&str] = &["{{ '%s-%d' % ('p', 4) }}"];

fn special(value: &Value) -> SpecialTokens {
    let name = |key: &str| value[key].as_str().map(str::to_owned);
    SpecialTokens { bos: name("bos_token"), eos: name("eos_token"), ..SpecialTokens::default() }
}

fn now(value: &Value) -> Timestamp {
    format!("{}Z", text(value)).parse().unwrap()
}

fn render(template: &ChatTemplate, case: &Value, now: Timestamp) -> Result<String, TemplateError> {
    let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
    let input = RenderInput {
        messages: &messages,
        tools_json: case.get("tools").cloned(),
        kwargs: case.get("variables").map_or_else(Map::new, |variables| variables.as_object().unwrap().clone()),
        add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap(),
    };
    template.render_at(&input, now)
}

fn check(name: &str, template: &ChatTemplate, cases: &Value, now: Timestamp) -> usize {
    let cases = cases.as_array().unwrap();
    for case in cases {
        let rendered = render(template, case, now);
        match case.get("error") {
            None => assert_eq!(rendered.unwrap(), text(&case["expected"]), "{name}: {}", case["name"]),
            Some(error) => {
                let Err(TemplateError::Raised { message }) = rendered else { panic!("{name}: {rendered:?}") };
                assert_eq!(message, text(error), "{name}: {}", case["name"]);
            }
        }
    }
    cases.len()
}

#[test]
fn the_sample_models_template_renders_as_recorded() {
    let file = read_json(&golden("smollm2/chat_template.json"));
    let template = ChatTemplate::new(text(&file["template"]), &special(&file["special"])).unwrap();
    assert!(check("smollm2", &template, &file["cases"], Timestamp::UNIX_EPOCH) > 20);
}

#[test]
fn templates_of_the_common_shapes_render_as_recorded() {
    let file = read_json(&golden("chat_templates.json"));
    for entry in file["templates"].as_array().unwrap() {
        let template = ChatTemplate::new(text(&entry["template"]), &special(&entry["special"])).unwrap();
        assert!(check(text(&entry["name"]), &template, &entry["cases"], now(&file["now"])) >= 30);
    }
}

#[test]
fn expressions_give_what_jinja_gives() {
    let file = read_json(&golden("chat_templates.json"));
    let input = RenderInput { messages: &[], tools_json: None, kwargs: Map::new(), add_generation_prompt: false };
    let mut different = Vec::new();
    for expression in file["expressions"].as_array().unwrap() {
        let source = text(&expression["source"]);
        let rendered = ChatTemplate::new(source, &SpecialTokens::default())
            .and_then(|template| template.render_at(&input, now(&file["now"])));
        let agrees = match (expression.get("expected"), &rendered) {
            (Some(expected), Ok(rendered)) => text(expected) == rendered,
            (None, Err(TemplateError::Raised { message })) => text(&expression["error"]) == message,
            (None, Err(_)) => true,
            _ => false,
        };
        if !agrees {
            println!("{source}\n  expected {expression}\n  rendered {rendered:?}");
            different.push(source);
        }
    }
    assert_eq!(different, DIFFERENT);
}
