use std::time::Instant;

use super::*;

/// A vocabulary of single bytes: the smallest that can say everything.
fn grammars() -> Grammars {
    let specials = ["<unk>", "<s>", "</s>"];
    let mut vocab = serde_json::Map::new();
    let added = specials.iter().enumerate().map(|(id, name)| {
        vocab.insert((*name).to_owned(), id.into());
        json!({ "id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true })
    });
    let added: Vec<Json> = added.collect();
    let mut next_unprintable = 256;
    for byte in 0..=255_u8 {
        let is_printable = matches!(byte, 33..=126 | 161..=172 | 174..=255);
        let character = if is_printable { u32::from(byte) } else { next_unprintable };
        next_unprintable += u32::from(!is_printable);
        vocab.insert(char::from_u32(character).unwrap().to_string(), (u32::from(byte) + 3).into());
    }
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let document = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": [] },
    });
    let tokenizer = Tokenizer::from_json(document.to_string().as_bytes()).unwrap();
    let end = tokenizer.token_to_id("</s>").unwrap();
    let special = kindling_models::SpecialTokens { eos: Some("</s>".to_owned()), ..Default::default() };
    Grammars::new(Arc::new(tokenizer.with_special_tokens(special, &[end])))
}

const END: u32 = 2;

/// On a thread with room, as the service does it.
fn compile(form: Form) -> Result<Grammar, GrammarError> {
    let thread = std::thread::Builder::new().stack_size(COMPILE_STACK_BYTES);
    thread.spawn(move || grammars().compile_here(&form)).unwrap().join().unwrap()
}

fn refusal(form: Form) -> String {
    match compile(form) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("it should be refused"),
    }
}

/// Whether the whole text has the form, a byte a token, and the end may follow.
fn accepts(grammar: &Grammar, text: &str) -> bool {
    let Grammar(mut matcher) = grammar.copy();
    for byte in text.bytes() {
        if matcher.is_stopped() || !matcher.compute_mask().unwrap().is_allowed(u32::from(byte) + 3) {
            return false;
        }
        matcher.consume_token(u32::from(byte) + 3).unwrap();
    }
    matcher.compute_mask_or_eos().unwrap().is_allowed(END)
}

fn schema(schema: Json) -> Form {
    Form::JsonSchema(schema.to_string())
}

#[test]
fn a_schema_allows_what_it_describes_with_little_space() {
    let form = schema(json!({
        "type": "object", "properties": { "name": { "type": "string", "maxLength": 3 }, "age": { "type": "integer" } },
        "required": ["name"], "additionalProperties": false,
    }));
    let grammar = compile(form).unwrap();
    assert!(accepts(&grammar, r#"{"name":"Ann"}"#));
    assert!(accepts(&grammar, "{\n  \"name\": \"Grü\",\n  \"age\": 7\n}"));
    assert!(!accepts(&grammar, r#"{"age":7}"#));
    assert!(!accepts(&grammar, r#"{"name":"Anne"}"#));
    assert!(!accepts(&grammar, r#"{"name":  "Ann"}"#));
    assert!(!accepts(&grammar, r#"{"name":"Ann""#), "the end may not come before the end");
}

#[test]
fn regex_choice_object_and_grammar_allow_what_they_say() {
    let grammar = compile(Form::Regex(r"[0-9]{3}-\w+/".to_owned())).unwrap();
    assert!(accepts(&grammar, "123-abc/") && !accepts(&grammar, "12-abc/") && !accepts(&grammar, "123-abc/x"));
    let grammar = compile(Form::Choice(vec!["yes".into(), "yes, \"but\"\n".into(), "né".into()])).unwrap();
    for choice in ["yes", "yes, \"but\"\n", "né"] {
        assert!(accepts(&grammar, choice), "{choice}");
    }
    assert!(!accepts(&grammar, "yes,") && !accepts(&grammar, "no"));
    let grammar = compile(Form::JsonObject).unwrap();
    assert!(accepts(&grammar, r#"{"a": [1, null, {"b": "c"}]}"#) && !accepts(&grammar, "[1]"));
    let grammar = compile(Form::Lark("start: sum\nsum: NUM | sum \"+\" NUM\nNUM: /[0-9]+/".to_owned())).unwrap();
    assert!(accepts(&grammar, "1+22+3") && !accepts(&grammar, "1+"));
}

#[test]
fn the_end_comes_by_itself_where_nothing_can_follow() {
    let Grammar(mut matcher) = compile(Form::Choice(vec!["ab".into(), "c".into()])).unwrap();
    matcher.consume_token(u32::from(b'a') + 3).unwrap();
    assert!(!matcher.is_stopped());
    matcher.consume_token(u32::from(b'b') + 3).unwrap();
    assert!(matcher.is_stopped() && matcher.stop_reason().is_ok());
}

#[test]
fn refuses_by_name_what_is_no_form() {
    let refused = [
        (Form::JsonSchema("{".to_owned()), "json_schema: no JSON: EOF"),
        (Form::JsonSchema("[]".to_owned()), "json_schema: a JSON schema is an object or a boolean"),
        (Form::JsonSchema("false".to_owned()), "json_schema: nothing has this form"),
        (Form::JsonSchema(" ".to_owned()), "json_schema: it is empty"),
        (schema(json!({ "type": "objekt" })), "json_schema: Invalid type: objekt"),
        (schema(json!({ "$ref": "#/$defs/missing" })), "json_schema: Reference segment"),
        (schema(json!({ "$ref": "https://example.org/schema.json" })), "json_schema: Only absolute $ref's"),
        (schema(json!({ "type": "integer", "minimum": 3, "maximum": 2 })), "json_schema: "),
        (schema(json!({ "type": "string", "pattern": "(" })), "json_schema: "),
        (schema(json!({ "dependentSchemas": { "a": {} } })), "json_schema: Unimplemented keys"),
        (Form::Regex("(a".to_owned()), "regex: "),
        (Form::Regex("a\\".to_owned()), "regex: it ends with a single backslash"),
        (Form::Regex(String::new()), "regex: it is empty"),
        (Form::Choice(Vec::new()), "choice: it is empty"),
        (Form::Choice(vec!["x".to_owned(); MAX_CHOICES + 1]), "choice: 4097 choices are too many"),
        (Form::Lark("begin: \"a\"".to_owned()), "grammar: "),
        (Form::Lark("start: missing".to_owned()), "grammar: "),
        (Form::Lark("start: start".to_owned()), "grammar: nothing has this form"),
        (schema(json!({ "$ref": "#" })), "json_schema: nothing has this form"),
        (Form::Regex("a".repeat(MAX_GRAMMAR_BYTES + 1)), "regex: it has 262145 bytes"),
    ];
    for (form, expected) in refused {
        let shown = format!("{form:?}").chars().take(100).collect::<String>();
        let said = refusal(form);
        assert!(said.starts_with(expected) && said.len() > expected.len() - 1, "{shown}: {said}");
        assert!(!said.contains('<') || said.contains("<unk>"), "marks of the library in: {said}");
    }
}

/// Schemas that an attacker would send.
fn hostile_schemas() -> Vec<(&'static str, Form)> {
    let nested = |levels: usize| {
        (0..levels).fold(json!({ "type": "integer" }), |inner, _| json!({ "type": "array", "items": inner }))
    };
    let chain: serde_json::Map<String, Json> =
        (0..3000).map(|index| (format!("d{index}"), json!({ "$ref": format!("#/$defs/d{}", index + 1) }))).collect();
    let any_of = (0..18).fold(
        json!({ "type": "integer" }),
        |inner, level| json!({ "anyOf": [{ "type": "object", "properties": { format!("a{level}"): inner } }, inner] }),
    );
    let all_of: Vec<Json> = (0..60)
        .map(|index| json!({ "anyOf": [{ "properties": { format!("p{index}"): { "type": "string" } } }, { "minProperties": index }] }))
        .collect();
    vec![
        ("deep arrays", schema(nested(120))),
        ("too deep to parse", Form::JsonSchema(format!("{}1{}", "{\"not\":".repeat(5000), "}".repeat(5000)))),
        ("recursion", schema(json!({ "$ref": "#" }))),
        (
            "mutual recursion",
            schema(
                json!({ "$defs": { "a": { "$ref": "#/$defs/b" }, "b": { "$ref": "#/$defs/a" } }, "$ref": "#/$defs/a" }),
            ),
        ),
        ("recursive list", schema(json!({ "type": "object", "properties": { "next": { "$ref": "#" } } }))),
        ("chain of references", schema(json!({ "$defs": chain, "$ref": "#/$defs/d0" }))),
        ("huge enum", schema(json!({ "enum": (0..20_000).map(|n| format!("value-{n}")).collect::<Vec<_>>() }))),
        ("choices within choices", schema(any_of)),
        ("all of many choices", schema(json!({ "allOf": all_of }))),
        ("long strings", schema(json!({ "type": "string", "minLength": 100_000, "maxLength": 1_000_000 }))),
        ("many items", schema(json!({ "type": "array", "items": { "type": "integer" }, "minItems": 100_000 }))),
        (
            "many properties",
            schema(json!({ "type": "object", "properties":
            (0..4000).map(|n| (format!("p{n}"), json!({ "type": "string" }))).collect::<serde_json::Map<_, _>>() })),
        ),
        ("multiples", schema(json!({ "type": "integer", "multipleOf": 99_991 }))),
        (
            "pattern with all others",
            schema(json!({ "allOf": [{ "type": "string", "pattern": "^(a|aa)+$" }, { "pattern": "(a*)*b" }] })),
        ),
    ]
}

/// Expressions and grammars that an attacker would send.
fn hostile_texts() -> Vec<(&'static str, Form)> {
    vec![
        ("nested repetition", Form::Regex("((a{1,100}){1,100}){1,100}".to_owned())),
        ("backtracking", Form::Regex("(a+)+$".repeat(50))),
        ("states", Form::Regex("(a|b)*a(a|b){40}".to_owned())),
        ("wide states", Form::Regex(r"\w*a\w{200}b".to_owned())),
        ("nested groups", Form::Regex(format!("{}a{}", "(".repeat(100_000), ")".repeat(100_000)))),
        ("alternatives", Form::Regex((0..20_000).map(|n| format!("x{n}")).collect::<Vec<_>>().join("|"))),
        ("ambiguity", Form::Lark("start: start start | \"a\" | \"\"".to_owned())),
        ("left and right", Form::Lark("start: a start b | \"x\"\na: \"y\"?\nb: \"z\"?".to_owned())),
        ("empty loop", Form::Lark("start: e*\ne: \"\"*".to_owned())),
        ("nested lark", Form::Lark(format!("start: {}\"a\"{}", "(".repeat(100_000), ")".repeat(100_000)))),
        ("endless rule", Form::Lark("start: start".to_owned())),
        (
            "many rules",
            Form::Lark(format!(
                "start: r0\n{}r9999: \"x\"\n",
                (0..9999).map(|n| format!("r{n}: r{}\n", n + 1)).collect::<String>()
            )),
        ),
        ("counted", Form::Lark("start: (((\"a\"{0,500}){0,500}){0,500}){0,500}".to_owned())),
    ]
}

/// Each ends within the bound, without a panic; whether it is refused is not the point.
#[test]
fn hostile_forms_end_in_time() {
    let grammars = Arc::new(grammars());
    for (name, form) in hostile_schemas().into_iter().chain(hostile_texts()) {
        let started = Instant::now();
        let at = Arc::clone(&grammars);
        let thread = std::thread::Builder::new().stack_size(COMPILE_STACK_BYTES);
        let compiled = thread.spawn(move || at.compile_here(&form)).unwrap().join().expect("no panic");
        let compile_time = started.elapsed();
        let said = compiled.as_ref().err().map_or_else(|| "accepted".to_owned(), ToString::to_string);
        let mut slowest = Duration::ZERO;
        if let Ok(Grammar(mut matcher)) = compiled {
            // Goes on with the first token that is allowed, as a model may.
            for _ in 0..40 {
                let started = Instant::now();
                let mask = matcher.compute_mask_or_eos();
                slowest = slowest.max(started.elapsed());
                let Some(token) = mask.ok().and_then(|mask| mask.iter().find(|token| *token != END)) else { break };
                if matcher.consume_token(token).is_err() || matcher.is_stopped() {
                    break;
                }
            }
        }
        println!("{name}: {compile_time:?}, slowest mask {slowest:?}, {said}");
        assert!(compile_time < COMPILE_TIMEOUT, "{name}: {compile_time:?}");
        assert!(slowest < Duration::from_secs(1), "{name}: {slowest:?}");
    }
}
