use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::Tokenizer;
use crate::gguf::synthetic::SyntheticGguf;
use crate::gguf::{GgufHeader, Metadata};

fn golden(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

pub(super) fn metadata(file: &SyntheticGguf) -> Metadata {
    GgufHeader::read(&file.file()).unwrap().metadata
}

/// The GGUF metadata that a converter makes of a byte-level `tokenizer.json`.
fn converted(document: &Value, pre: &str) -> SyntheticGguf {
    let mut tokens: Vec<(u64, String, i32)> = document["model"]["vocab"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(token, id)| (id.as_u64().unwrap(), token.clone(), 1))
        .collect();
    for added in document["added_tokens"].as_array().unwrap() {
        let id = added["id"].as_u64().unwrap();
        tokens.retain(|(other, _, _)| *other != id);
        let kind = if added["special"].as_bool().unwrap() { 3 } else { 4 };
        tokens.push((id, added["content"].as_str().unwrap().to_owned(), kind));
    }
    tokens.sort();
    let merges: Vec<String> = document["model"]["merges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|merge| match merge {
            Value::String(text) => text.clone(),
            pair => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
        })
        .collect();
    let kinds: Vec<Vec<u8>> = tokens.iter().map(|(_, _, kind)| kind.to_le_bytes().to_vec()).collect();
    let names: Vec<&str> = tokens.iter().map(|(_, token, _)| token.as_str()).collect();
    let merges: Vec<&str> = merges.iter().map(String::as_str).collect();
    SyntheticGguf::new()
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", pre)
        .texts("tokenizer.ggml.tokens", &names)
        .array("tokenizer.ggml.token_type", 5, &kinds)
        .texts("tokenizer.ggml.merges", &merges)
}

fn small() -> SyntheticGguf {
    let kinds: Vec<Vec<u8>> = [3i32, 3, 1, 1, 1, 4].iter().map(|kind| kind.to_le_bytes().to_vec()).collect();
    SyntheticGguf::new()
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", "gpt-2")
        .texts("tokenizer.ggml.tokens", &["<s>", "</s>", "a", "b", "ab", "<think>"])
        .array("tokenizer.ggml.token_type", 5, &kinds)
        .texts("tokenizer.ggml.merges", &["a b"])
        .number("tokenizer.ggml.bos_token_id", 0)
        .number("tokenizer.ggml.eos_token_id", 1)
}

#[test]
fn a_gguf_vocabulary_encodes_as_the_tokenizer_json_it_came_from() {
    for (folder, pre, bos) in
        [("smollm2", "smollm", None), ("llama3_like", "llama-bpe", Some(562)), ("qwen2_like", "qwen2", None)]
    {
        let mut file = converted(&golden(&format!("{folder}/tokenizer.json")), pre);
        if let Some(bos) = bos {
            file = file.number("tokenizer.ggml.bos_token_id", bos);
        }
        let tokenizer = Tokenizer::from_gguf(&metadata(&file)).unwrap();
        let mut compared = 0;
        for case in golden(&format!("{folder}/tokenize.json"))["cases"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            // GGUF cannot say that a token takes the space beside it.
            if text.contains("think>") {
                continue;
            }
            let ids = |key: &str| serde_json::from_value::<Vec<u32>>(case.get(key).unwrap_or(&case["ids"]).clone());
            assert_eq!(tokenizer.encode(text, false, true).unwrap(), ids("ids").unwrap(), "{folder}: {text:?}");
            assert_eq!(tokenizer.encode(text, false, false).unwrap(), ids("ids_plain").unwrap(), "{folder}: {text:?}");
            assert_eq!(tokenizer.encode(text, true, true).unwrap(), ids("ids_with_bos").unwrap(), "{folder}: {text:?}");
            compared += 1;
        }
        assert!(compared > 90);
    }
}

#[test]
fn token_types_and_roles_are_honoured() {
    let tokenizer = Tokenizer::from_gguf(&metadata(&small())).unwrap();
    assert_eq!(tokenizer.encode("<s>ab<think>", true, true).unwrap(), [0, 4, 5]);
    assert!(tokenizer.is_special(0) && !tokenizer.is_special(5));
    // Only what steers is text when it comes from a user.
    assert_eq!(tokenizer.encode("ab<think>", true, false).unwrap(), [4, 5]);
    assert_eq!(tokenizer.decode(&[0, 4, 5, 1], true), "ab<think>");
    assert_eq!(tokenizer.end_of_generation(), [1]);
    assert_eq!(tokenizer.special_tokens().bos.as_deref(), Some("<s>"));
    let eot = small().number("tokenizer.ggml.eot_token_id", 0);
    assert_eq!(Tokenizer::from_gguf(&metadata(&eot)).unwrap().end_of_generation(), [0, 1]);
}

#[test]
fn bos_and_eos_are_added_where_the_file_asks_for_them() {
    let encode =
        |file: SyntheticGguf, add| Tokenizer::from_gguf(&metadata(&file)).unwrap().encode("ab", add, true).unwrap();
    let both = || small().flag("tokenizer.ggml.add_bos_token", true).flag("tokenizer.ggml.add_eos_token", true);
    assert_eq!(encode(both(), true), [0, 4, 1]);
    assert_eq!(encode(both(), false), [4]);
    assert_eq!(encode(small().flag("tokenizer.ggml.add_bos_token", true), true), [0, 4]);
    let llama = || small().without("tokenizer.ggml.pre").text("tokenizer.ggml.pre", "llama-bpe");
    assert_eq!(encode(llama(), true), [0, 4], "llama-bpe adds a BOS unless told otherwise");
    assert_eq!(encode(llama().flag("tokenizer.ggml.add_bos_token", false), true), [4]);
    for pre in [None, Some("default")] {
        let file = small().without("tokenizer.ggml.pre");
        let file = pre.map_or(file.clone(), |pre| file.text("tokenizer.ggml.pre", pre));
        assert_eq!(encode(file, true), [4]);
    }
}

#[test]
fn wrong_gguf_vocabularies_are_refused_by_name() {
    let changed = |key: &str| small().without(key);
    let cases = [
        (changed("tokenizer.ggml.model"), "tokenizer.ggml.model (missing) is not supported"),
        (changed("tokenizer.ggml.model").text("tokenizer.ggml.model", "bert"), "tokenizer.ggml.model bert is not"),
        (changed("tokenizer.ggml.pre").text("tokenizer.ggml.pre", "viking"), "tokenizer.ggml.pre viking is not"),
        (changed("tokenizer.ggml.tokens"), "tokenizer.ggml.tokens is missing"),
        (changed("tokenizer.ggml.merges"), "tokenizer.ggml.merges is missing"),
        (changed("tokenizer.ggml.merges").texts("tokenizer.ggml.merges", &["a x"]), "merge 0 needs token \"x\""),
        (changed("tokenizer.ggml.merges").texts("tokenizer.ggml.merges", &["b a"]), "merge 0 needs token \"ba\""),
        (changed("tokenizer.ggml.merges").texts("tokenizer.ggml.merges", &["ab"]), "merge 0 is not a pair"),
        (changed("tokenizer.ggml.bos_token_id").number("tokenizer.ggml.bos_token_id", 9), "bos_token_id is 9"),
        (
            changed("tokenizer.ggml.tokens").texts("tokenizer.ggml.tokens", &["<s>", "</s>", "a", "b", "ab", "a"]),
            "token \"a\" is in tokenizer.ggml.tokens twice, again as id 5",
        ),
        (
            changed("tokenizer.ggml.token_type").array("tokenizer.ggml.token_type", 5, &[vec![1, 0, 0, 0]]),
            "token_type has 1 entries, tokenizer.ggml.tokens 6",
        ),
        (changed("tokenizer.ggml.tokens").number("tokenizer.ggml.tokens", 3), "read the tokenizer from the gguf"),
    ];
    for (file, part) in cases {
        let message = Tokenizer::from_gguf(&metadata(&file)).err().expect(part).to_string();
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
}

fn document() -> Value {
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null,
        "added_tokens": [], "post_processor": null, "decoder": {
            "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true,
        },
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
    })
}

fn refusal(document: &Value) -> String {
    Tokenizer::from_json(document.to_string().as_bytes()).err().expect("should be refused").to_string()
}

#[test]
fn wrong_tokenizer_files_are_refused_by_name() {
    let with = |path: &str, value: Value| {
        let mut document = document();
        *document.pointer_mut(path).unwrap() = value;
        document
    };
    let mut overflowing = document();
    overflowing["model"]["merges"] = json!([["ab", "ab"]]);
    let cases = [
        (with("/model", json!(3)), "it has no object model"),
        (with("/model/type", json!("Unigram")), "tokenizer model Unigram is not supported"),
        (with("/model/vocab", json!([])), "model.vocab is no object"),
        (with("/model/vocab/a", json!(-1)), "token \"a\" has the id -1"),
        (with("/model/vocab/a", json!(4_000_000_000u32)), "token \"a\" has the id 4000000000"),
        (with("/model/vocab/a", json!(1)), "id 1 is given twice"),
        (with("/model/merges", json!({})), "model.merges is no list"),
        (with("/model/merges", json!([["a"]])), "merge 0 is not a pair"),
        (with("/model/merges", json!(["a b c"])), "merge 0 is not a pair"),
        (overflowing, "merge 0 needs token \"abab\""),
        (with("/decoder", Value::Null), "tokenizer decoder without a type is not supported"),
        (with("/decoder", json!({"type": "WordPiece"})), "tokenizer decoder WordPiece is not supported"),
        (with("/decoder", json!({"type": "Sequence", "decoders": [{"type": "Fuse"}]})), "decoder sequence Fuse"),
        (with("/normalizer", json!({"type": "Nothing"})), "parse tokenizer.json"),
        (with("/pre_tokenizer", json!([1])), "parse tokenizer.json"),
        (with("/post_processor", json!({"type": "TemplateProcessing", "single": 3})), "no list single"),
        (with("/normalizer", json!({"type": "Sequence", "normalizers": [{"type": "Precompiled"}]})), "Precompiled"),
        (with("/added_tokens", json!([{"id": 1}])), "added token 0 has no content"),
        (with("/added_tokens", json!([{"content": "x", "id": 1u64 << 40}])), "token \"x\" has the id"),
    ];
    for (document, part) in cases {
        let message = refusal(&document);
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
    let mut random = document();
    random["model"]["dropout"] = json!(0.5);
    assert!(refusal(&random).contains("dropout"));
    let mut prefixed = document();
    prefixed["model"]["continuing_subword_prefix"] = json!("##");
    assert!(refusal(&prefixed).contains("continuing_subword_prefix ## is not supported"));
    assert!(Tokenizer::from_json(b"{").err().unwrap().to_string().starts_with("parse tokenizer.json: EOF"));
    assert!(Tokenizer::from_json(&[0xff]).is_err());
}

#[test]
fn damaged_tokenizer_files_never_panic() {
    let original = golden("llama3_like/tokenizer.json").to_string();
    let small = document().to_string();
    let mut state = 0x5eed_0003u64;
    let mut below = |limit: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % limit as u64) as usize
    };
    for round in 0..3_000 {
        // Most rounds on the small one, where a change is more often in a place that matters.
        let mut bytes = if round % 30 == 0 { original.clone().into_bytes() } else { small.clone().into_bytes() };
        for _ in 0..=below(3) {
            let place = below(bytes.len());
            bytes[place] = b"0123456789abz[]{},:\"\\ "[below(22)];
        }
        if let Ok(tokenizer) = Tokenizer::from_json(&bytes) {
            let _ = tokenizer.encode("a b ab \u{1f525}", true, true);
        }
    }
}

#[test]
fn streams_hold_back_parts_of_characters() {
    // The fire emoji is f0 9f 94 a5: in the byte-level alphabet ð Ł Ķ ¥.
    let mut document = document();
    document["model"]["vocab"] = json!({"ð": 0, "Ł": 1, "Ķ": 2, "¥": 3, "x": 4, "Ġ": 5, "ðŁĶ": 6});
    document["model"]["merges"] = json!([]);
    let tokenizer = Arc::new(Tokenizer::from_json(document.to_string().as_bytes()).unwrap());
    let pushes = |ids: &[u32]| {
        let mut stream = tokenizer.stream();
        let mut out: Vec<String> = ids.iter().map(|id| stream.push(*id)).collect();
        out.push(stream.finish());
        out
    };
    assert_eq!(pushes(&[0, 1, 2, 3]), ["", "", "", "🔥", ""]);
    assert_eq!(pushes(&[6, 3, 5, 4]), ["", "🔥", " ", "x", ""]);
    assert_eq!(pushes(&[0, 1, 4]), ["", "", "\u{fffd}x", ""], "a character that cannot be completed is given up");
    assert_eq!(pushes(&[6]), ["", "\u{fffd}"]);
    assert_eq!(pushes(&[3, 99, 4]), ["\u{fffd}", "", "x", ""], "unknown ids are nothing");
}
