//! Text that is meant to hurt a tokenizer: long runs, nothing, names of special tokens, odd characters.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "this is test code, helpers included")]

mod common;

use std::time::{Duration, Instant};

use common::golden;
use kindling_models::Tokenizer;

const FOLDERS: [&str; 10] = [
    "smollm2",
    "vocabularies/llama3",
    "vocabularies/qwen2",
    "vocabularies/qwen35",
    "vocabularies/o200k",
    "vocabularies/tekken",
    "vocabularies/llama2",
    "vocabularies/mistral_v3",
    "vocabularies/spm_no_prefix",
    "vocabularies/gemma4",
];

fn tokenizer(folder: &str) -> Tokenizer {
    Tokenizer::from_json(&std::fs::read(golden(&format!("{folder}/tokenizer.json"))).unwrap()).unwrap()
}

#[test]
fn a_mebibyte_of_anything_ends_in_time() {
    // Some at the ends of what a regular expression has to look back or ahead for.
    let patterns = [
        "a",
        "A",
        "0",
        " ",
        "\n",
        "\t",
        "=",
        "'",
        "\0",
        "\u{301}",
        "e\u{301}",
        "é",
        "字",
        "한",
        "ب",
        "😀",
        "👩\u{200d}",
        "\u{a0}",
        "\r\n",
        " a",
        "aA",
        "Aa",
        "'s",
        "<|",
        "<|im_start|>",
        "<s>",
        "[INST]",
        "▁",
        "\u{10ffff}",
        "1 ",
        "\n ",
    ];
    let mut slowest = (Duration::ZERO, String::new());
    for folder in FOLDERS {
        let tokenizer = tokenizer(folder);
        for pattern in patterns {
            let mut text = pattern.repeat((1 << 20) / pattern.len());
            for end in ["", "x", " "] {
                text.push_str(end);
                let started = Instant::now();
                let encoded = tokenizer.encode(&text, false, false);
                let took = started.elapsed();
                if let Err(error) = &encoded {
                    println!("{folder}: {pattern:?} + {end:?}: {error} after {took:?}");
                }
                if took > Duration::from_secs(2) {
                    println!("{folder}: {pattern:?} + {end:?} took {took:?}");
                }
                if took > slowest.0 {
                    slowest = (took, format!("{folder}: {pattern:?} + {end:?}"));
                }
            }
        }
    }
    println!("slowest: {slowest:?}");
}
