use serde_json::{Map, json};

use super::{ChatTemplate, Message, RenderInput, TemplateError};
use crate::tokenizer::SpecialTokens;

fn special() -> SpecialTokens {
    SpecialTokens { bos: Some("<s>".to_owned()), eos: Some("</s>".to_owned()), ..SpecialTokens::default() }
}

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, &special()).unwrap()
}

fn input(messages: &[Message]) -> RenderInput<'_> {
    RenderInput { messages, tools_json: None, kwargs: Map::new(), add_generation_prompt: true }
}

fn render(source: &str) -> Result<String, TemplateError> {
    template(source).render(&input(&[Message::text("user", "hello")]))
}

#[test]
fn raised_exceptions_are_the_requests_error_and_others_are_not() {
    let raised = render("{{ raise_exception('Roles must alternate') }}").unwrap_err();
    assert!(matches!(&raised, TemplateError::Raised { message } if message == "Roles must alternate"));
    let in_macro = render("{% macro m() %}{{ raise_exception('deep ' ~ 1) }}{% endmacro %}{{ m() }}").unwrap_err();
    assert!(matches!(&in_macro, TemplateError::Raised { message } if message == "deep 1"), "{in_macro:?}");
    let broken = render("a\n{{ messages[0].nothing.deeper }}").unwrap_err();
    assert!(matches!(&broken, TemplateError::Render { problem } if problem.contains("line 2")), "{broken:?}");
    let syntax = ChatTemplate::new("a\n{% if %}", &special()).err().unwrap();
    assert!(matches!(&syntax, TemplateError::Compile { problem } if problem.contains("line 2")), "{syntax:?}");
}

#[test]
fn variables_are_those_of_transformers() {
    assert_eq!(render("{{ bos_token }}{{ eos_token }}{{ add_generation_prompt }}").unwrap(), "<s></s>True");
    assert_eq!(
        render("{{ tools is none }}{{ documents is none }}{{ unk_token is defined }}").unwrap(),
        "TrueTrueFalse"
    );
    let messages = [Message::text("user", "hi")];
    let mut input = input(&messages);
    input.kwargs = Map::from_iter([
        ("enable_thinking".to_owned(), json!(false)),
        ("messages".to_owned(), json!([])),
        ("bos_token".to_owned(), json!("B")),
    ]);
    let source = "{{ enable_thinking }} {{ messages | length }} {{ bos_token }}";
    assert_eq!(template(source).render(&input).unwrap(), "False 1 B");
}

#[test]
fn messages_show_only_what_they_have() {
    let mut message = Message::text("tool", "21.5");
    message.tool_call_id = Some("call_1".to_owned());
    message.extra.insert("reasoning_content".to_owned(), json!("hm"));
    let source = "{% for m in messages %}{% for k, v in m.items() %}{{ k }}={{ v }};{% endfor %}{% endfor %}";
    let text = template(source).render(&input(&[message])).unwrap();
    assert_eq!(text, "role=tool;content=21.5;tool_call_id=call_1;reasoning_content=hm;");
    let nothing: Message = serde_json::from_value(json!({"role": "assistant"})).unwrap();
    assert_eq!(template("{{ messages[0].content is none }}").render(&input(&[nothing])).unwrap(), "True");
}

#[test]
fn arguments_of_tool_calls_are_values_whether_sent_as_text_or_not() {
    for arguments in [json!("{\"b\": 1, \"a\": [true]}"), json!({"b": 1, "a": [true]})] {
        let mut message = Message::text("assistant", "");
        message.tool_calls = Some(json!([{"type": "function", "function": {"name": "f", "arguments": arguments}}]));
        let source = "{{ messages[0].tool_calls[0].function.arguments | tojson }}";
        assert_eq!(template(source).render(&input(&[message])).unwrap(), r#"{"b": 1, "a": [true]}"#);
    }
    let mut message = Message::text("assistant", "");
    message.tool_calls = Some(json!([{"function": {"name": "f", "arguments": "not json"}}]));
    let source = "{{ messages[0].tool_calls[0].function.arguments }}";
    assert_eq!(template(source).render(&input(&[message])).unwrap(), "not json");
}

#[test]
fn named_templates_need_a_default() {
    let named = json!([{"name": "tool_use", "template": "T"}]);
    assert!(matches!(ChatTemplate::from_config(&named, &special()), Err(TemplateError::Compile { .. })));
    assert!(ChatTemplate::from_config(&json!(3), &special()).is_err());
    assert!(ChatTemplate::from_config(&json!("x"), &special()).is_ok());
}

#[test]
fn templates_that_do_too_much_are_stopped() {
    let endless = [
        "{% for a in range(100000) %}{% for b in range(100000) %}{{ b }}{% endfor %}{% endfor %}",
        "{{ 'x' * 1000000000000 }}",
        "{% set ns = namespace(x='x') %}{% for a in range(64) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{{ range(1000000000) | list | length }}",
        "{{ 'x'.replace('', 'y' * 100000).replace('y', 'z' * 100000) }}",
        "{{ ['x' * 100000] * 100000 | join('y' * 10000) }}",
        "{{ ('y' * 100000).join(['x'] * 1000000) }}",
        "{{ ('{0}' * 100000).format('y' * 100000) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
        "{{ ('x' * 1000000).split('x') | map('replace', '', 'y' * 1000000) | list }}",
    ];
    for source in endless {
        let started = std::time::Instant::now();
        let error = ChatTemplate::new(source, &special()).and_then(|template| template.render(&input(&[])));
        assert!(error.is_err(), "{source} gave {} bytes", error.unwrap().len());
        assert!(started.elapsed().as_secs() < 30, "{source} took {:?}", started.elapsed());
    }
}

#[test]
fn pythons_methods_work_within_the_budget() {
    let source = "{{ '-'.join(['a', 1, none]) }} {{ 'aXbX'.replace('X', '__') }} {{ '{} {:>4}'.format('q', 7) }} {{ 'é'.join('xyz') }}";
    assert_eq!(render(source).unwrap(), "a-1-None a__b__ q    7 xéyéz");
}

#[test]
fn deep_values_do_not_overflow_the_stack() {
    let sources = [
        "{% set ns = namespace(x=[]) %}{% for a in range(10000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x | tojson }}",
        "{% set ns = namespace(x=[]) %}{% for a in range(10000) %}{% set ns.x = [ns.x] %}{% endfor %}done",
        "{% set ns = namespace(x={}) %}{% for a in range(10000) %}{% set ns.x = {'k': ns.x} %}{% endfor %}done",
    ];
    for source in sources {
        let _ = render(source);
    }
    let nested = format!("{}1{}", "(".repeat(100_000), ")".repeat(100_000));
    assert!(ChatTemplate::new(&format!("{{{{ {nested} }}}}"), &special()).is_err());
    let nested = "{% if true %}".repeat(50_000);
    assert!(ChatTemplate::new(&nested, &special()).is_err());
}

#[test]
fn sources_beyond_the_limit_are_refused() {
    let error = ChatTemplate::new(&" ".repeat(2 << 20), &special()).err().unwrap();
    assert!(error.to_string().contains("2097152 bytes"), "{error}");
}
