//! Tokenizers against what Hugging Face's `tokenizers` gives; recorded by `golden/record_tokenizers.py`.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "this is test code, helpers included")]

mod common;

use std::sync::Arc;

use common::{golden, ids, text};
use kindling_models::Tokenizer;
use serde_json::Value;

fn tokenizer(folder: &str) -> Arc<Tokenizer> {
    let path = golden(&format!("{folder}/tokenizer.json"));
    Arc::new(Tokenizer::from_json(&std::fs::read(path).unwrap()).unwrap())
}

fn stream(tokenizer: &Arc<Tokenizer>, ids: &[u32], skip_special: bool) -> String {
    let mut stream = if skip_special { tokenizer.stream() } else { tokenizer.stream_with_special() };
    let mut out: String = ids.iter().map(|id| stream.push(*id)).collect();
    out.push_str(&stream.finish());
    out
}

/// Text of `ids` whole and token by token. SentencePiece's byte fallback writes one U+FFFD for every byte of a
/// broken character, which a stream cannot know in time: those are left out, and counted.
fn check_decode(tokenizer: &Arc<Tokenizer>, row: &Value, decoded: &str, is_byte_level: bool) -> usize {
    let ids = ids(&row["ids"]);
    let skipped = row["decoded_skip_special"].as_str().unwrap_or(decoded);
    let mut left_out = 0;
    for (expected, skip_special) in [(decoded, false), (skipped, true)] {
        assert_eq!(tokenizer.decode(&ids, skip_special), expected, "ids {ids:?}");
        if is_byte_level || !expected.contains('\u{fffd}') {
            assert_eq!(stream(tokenizer, &ids, skip_special), expected, "stream of ids {ids:?}");
        } else {
            left_out += 1;
        }
    }
    left_out
}

fn check(folder: &str, is_byte_level: bool) {
    let tokenizer = tokenizer(folder);
    let file = common::read_json(&golden(&format!("{folder}/tokenize.json")));
    let cases = file["cases"].as_array().unwrap();
    let mut left_out = 0;
    for case in cases {
        let input = text(&case["text"]);
        let expected = ids(&case["ids"]);
        let or_ids = |key: &str| case.get(key).map_or_else(|| expected.clone(), ids);
        assert_eq!(tokenizer.encode(input, false, true).unwrap(), expected, "{folder}: {input:?}");
        assert_eq!(tokenizer.encode(input, false, false).unwrap(), or_ids("ids_plain"), "{folder} plain: {input:?}");
        assert_eq!(tokenizer.encode(input, true, true).unwrap(), or_ids("ids_with_bos"), "{folder} BOS: {input:?}");
        left_out += check_decode(&tokenizer, case, case["decoded"].as_str().unwrap_or(input), is_byte_level);
    }
    let sequences = file["decode"].as_array().unwrap();
    for sequence in sequences {
        left_out += check_decode(&tokenizer, sequence, text(&sequence["decoded"]), is_byte_level);
    }
    println!("{folder}: {} texts, {} sequences, {left_out} streams left out", cases.len(), sequences.len());
    assert!(cases.len() > 90 && sequences.len() > 90);
    // Two streams are checked for each.
    assert!(left_out < cases.len() + sequences.len());
}

#[test]
fn smollm2_is_as_recorded() {
    check("smollm2", true);
}

#[test]
fn llama3_like_is_as_recorded() {
    check("llama3_like", true);
}

#[test]
fn qwen2_like_is_as_recorded() {
    check("qwen2_like", true);
}

#[test]
fn spm_like_is_as_recorded() {
    check("spm_like", false);
}

#[test]
fn spm_legacy_like_is_as_recorded() {
    check("spm_legacy_like", false);
}

#[test]
fn special_tokens_and_ends_are_found_by_name() {
    let tokenizer = tokenizer("smollm2");
    assert_eq!(tokenizer.vocab_size(), 49_152);
    assert_eq!(tokenizer.end_of_generation(), [0, 2]);
    assert!(tokenizer.is_special(1) && !tokenizer.is_special(100) && !tokenizer.is_special(u32::MAX));
    assert_eq!(tokenizer.token_bytes(1), Some(b"<|im_start|>".as_slice()));
    assert_eq!(tokenizer.token_bytes(216), Some(b" ".as_slice()));
    assert_eq!(tokenizer.token_bytes(49_152), None);
    assert_eq!(tokenizer.decode(&[u32::MAX], false), "");
}

#[test]
fn bytes_of_all_tokens_of_a_text_are_the_text() {
    for folder in ["llama3_like", "qwen2_like"] {
        let tokenizer = tokenizer(folder);
        let file = common::read_json(&golden(&format!("{folder}/tokenize.json")));
        for case in file["cases"].as_array().unwrap() {
            let decoded = case["decoded"].as_str().unwrap_or(text(&case["text"]));
            let bytes = ids(&case["ids"]).iter().flat_map(|id| tokenizer.token_bytes(*id).unwrap()).copied().collect();
            assert_eq!(String::from_utf8(bytes).unwrap(), decoded);
        }
    }
}
