//! Text that is meant to hurt a tokenizer: long runs, nothing, names of special tokens, odd characters.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "this is test code, helpers included")]

mod common;

use std::sync::Arc;
use std::time::Instant;

use common::golden;
use kindling_models::Tokenizer;

const FOLDERS: [&str; 9] = [
    "smollm2",
    "llama3_like",
    "vocabularies/qwen2",
    "vocabularies/qwen35",
    "vocabularies/o200k",
    "vocabularies/tekken",
    "vocabularies/mistral_v3",
    "vocabularies/spm_no_prefix",
    "vocabularies/gemma4",
];

fn tokenizer(folder: &str) -> Tokenizer {
    Tokenizer::from_json(&std::fs::read(golden(&format!("{folder}/tokenizer.json"))).unwrap()).unwrap()
}

/// Seconds that this thread has computed: others may be at work on the machine. Elsewhere than on Linux, of the clock.
fn now(origin: Instant) -> f64 {
    let of_thread = std::fs::read_to_string("/proc/thread-self/schedstat");
    let nanoseconds = of_thread.ok().and_then(|line| line.split(' ').next()?.parse::<f64>().ok());
    nanoseconds
        .filter(|nanoseconds| *nanoseconds > 0.0)
        .map_or_else(|| origin.elapsed().as_secs_f64(), |nanoseconds| nanoseconds / 1e9)
}

/// For `count` times this text.
fn seconds(tokenizer: &Tokenizer, text: &str, count: usize) -> f64 {
    let origin = Instant::now();
    let started = now(origin);
    for _ in 0..count {
        let ids = tokenizer.encode(text, false, false).unwrap();
        assert!(!ids.is_empty(), "{:?}… gives nothing", text.chars().next());
    }
    // The system counts in ticks of some milliseconds.
    (now(origin) - started).max(0.004)
}

fn check_growth(folders: &[&str]) {
    // Runs of one thing, some at the ends of what a regular expression has to look back or ahead for.
    let patterns = ["a", "A", "0", " ", "\n", "=", "\u{301}", "字", "😀", "\r\n", " a", "aA", "'s", "<|", "<s>", "\n "];
    let mut worst = (0.0, String::new());
    for folder in folders {
        let tokenizer = tokenizer(folder);
        for pattern in patterns {
            let text = |bytes: usize| pattern.repeat(bytes / pattern.len()) + "x";
            let pieces = seconds(&tokenizer, &text(8 << 10), 16);
            let growth = seconds(&tokenizer, &text(128 << 10), 1) / pieces;
            if growth > worst.0 {
                worst = (growth, format!("{folder}: {pattern:?}, {pieces:.3} s in pieces"));
            }
            // 1 if the time is linear, 16 if it is quadratic.
            assert!(growth < 6.0, "{folder}: {pattern:?} takes {growth:.1} times as long in one piece as in 16");
        }
    }
    println!("128 KiB take at most {:.1} times as long in one piece as in 16 ({})", worst.0, worst.1);
}

#[test]
fn time_grows_with_the_length_of_byte_level_text() {
    check_growth(&["smollm2", "vocabularies/o200k", "vocabularies/qwen35"]);
    check_growth(&["vocabularies/o200k", "vocabularies/tekken"]);
}

#[test]
fn time_grows_with_the_length_of_sentence_piece_text() {
    check_growth(&["vocabularies/mistral_v3", "vocabularies/spm_no_prefix", "vocabularies/gemma4"]);
}

#[test]
fn a_mebibyte_of_one_character_is_encoded_and_decoded() {
    for folder in FOLDERS {
        let tokenizer = Arc::new(tokenizer(folder));
        for character in ["a", " "] {
            let text = character.repeat(1 << 20);
            let started = Instant::now();
            let ids = tokenizer.encode(&text, false, false).unwrap();
            println!("{folder}: {character:?} gives {} tokens in {:.2?}", ids.len(), started.elapsed());
            let mut stream = tokenizer.stream();
            let mut out: String = ids.iter().map(|id| stream.push(*id)).collect();
            out += &stream.finish();
            assert!(out == text && tokenizer.decode(&ids, false) == text, "{folder}: {character:?} changes");
            assert!(text.len() <= ids.len() * tokenizer.longest_token(), "{folder}: the bound is wrong");
        }
    }
}

#[test]
fn names_of_special_tokens_only_steer_where_they_may() {
    for folder in FOLDERS {
        let tokenizer = tokenizer(folder);
        let special: Vec<u32> = (0..tokenizer.vocab_size() as u32).filter(|id| tokenizer.is_special(*id)).collect();
        let name = |id: &u32| String::from_utf8(tokenizer.token_bytes(*id).unwrap().to_vec()).unwrap();
        let text: String = special.iter().map(name).collect();
        assert_eq!(tokenizer.encode(&text, false, true).unwrap(), special, "{folder}");
        let plain = tokenizer.encode(&text, false, false).unwrap();
        let steering: Vec<String> = plain.iter().filter(|id| tokenizer.is_special(**id)).map(name).collect();
        assert!(steering.is_empty(), "{folder}: {steering:?}");
        assert_eq!(tokenizer.decode(&special, true), "", "{folder}");
    }
}

#[test]
fn nothing_gives_nothing() {
    for folder in FOLDERS {
        let tokenizer = tokenizer(folder);
        assert_eq!(tokenizer.encode("", false, true).unwrap(), [0; 0], "{folder}");
        assert_eq!(tokenizer.encode_guarded("", '\u{e000}').unwrap(), [0; 0], "{folder}");
        assert_eq!(tokenizer.decode(&[], false), "", "{folder}");
        assert!(tokenizer.encode("", true, true).unwrap().len() <= 1, "{folder}");
    }
}

#[test]
fn lone_surrogates_are_no_text() {
    // No Rust text can hold one, so it ends where JSON is read: in a vocabulary, a template's messages, a request.
    for json in [r#""\ud800""#, r#""a\udc00b""#, r#""\ud800\u0041""#] {
        let error = serde_json::from_str::<String>(json).unwrap_err().to_string();
        assert!(error.contains("surrogate") || error.contains("hex escape"), "{error}");
        let document = format!(r#"{{"model": {{"type": "BPE", "vocab": {{{json}: 0}}, "merges": []}}}}"#);
        let error = Tokenizer::from_json(document.as_bytes()).err().unwrap().to_string();
        assert!(error.starts_with("parse tokenizer.json"), "{error}");
    }
    // The bytes of one, made by byte tokens, are no character.
    let tokenizer = Arc::new(tokenizer("vocabularies/o200k"));
    let ids: Vec<u32> = [0xed, 0xa0, 0x80]
        .map(|byte| {
            let is_byte = |id: &u32| tokenizer.token_bytes(*id) == Some(&[byte]);
            (0..tokenizer.vocab_size() as u32).find(is_byte).unwrap()
        })
        .to_vec();
    assert_eq!(tokenizer.decode(&ids, false), "\u{fffd}\u{fffd}\u{fffd}");
    let mut stream = tokenizer.stream();
    let streamed: String = ids.iter().map(|id| stream.push(*id)).collect();
    assert_eq!(streamed + &stream.finish(), "\u{fffd}\u{fffd}\u{fffd}");
}
