//! Any text for the vocabularies of the goldens: the first byte picks one, the rest is the text.
#![no_main]

use std::path::Path;
use std::sync::{Arc, OnceLock};

use kindling_models::Tokenizer;
use kindling_models::gguf::GgufHeader;
use libfuzzer_sys::fuzz_target;

/// Folder, and whether all bytes have tokens and nothing is changed before: then decoding gives the text back.
const FOLDERS: [(&str, bool); 7] = [
    ("o200k", true),
    ("tekken", true),
    ("qwen2", false),
    ("qwen35", false),
    ("mistral_v3", false),
    ("spm_no_prefix", false),
    ("gemma4", false),
];

fn tokenizers() -> &'static [(Arc<Tokenizer>, bool)] {
    static ALL: OnceLock<Vec<(Arc<Tokenizer>, bool)>> = OnceLock::new();
    ALL.get_or_init(|| {
        let load = |(folder, is_exact): &(&str, bool)| {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/vocabularies").join(folder);
            let bytes = std::fs::read(folder.join("vocab.gguf")).expect("a golden should be readable");
            let header = GgufHeader::read(&bytes).expect("a golden should be a gguf file");
            let tokenizer = Tokenizer::from_gguf(&header.metadata).expect("a golden should be a tokenizer");
            (Arc::new(tokenizer), *is_exact)
        };
        FOLDERS.iter().map(load).collect()
    })
}

fuzz_target!(|data: &[u8]| {
    let [which, rest @ ..] = data else { return };
    let (tokenizer, is_exact) = &tokenizers()[usize::from(*which) % FOLDERS.len()];
    let text = String::from_utf8_lossy(rest);
    let encode = |parse_special| tokenizer.encode(&text, false, parse_special).expect("any text should be encoded");
    let plain = encode(false);
    assert!(plain.iter().all(|id| !tokenizer.is_special(*id)), "plain text should not steer");
    let parsed = encode(true);
    assert!(parsed.iter().all(|id| (*id as usize) < tokenizer.vocab_size()));
    // U+F8FF is the guard: texts with it are of no use here.
    if !text.contains('\u{f8ff}') {
        let guarded = tokenizer.encode_guarded(&tokenizer.guard(&text, '\u{f8ff}'), '\u{f8ff}');
        assert_eq!(guarded.expect("a guarded text should be encoded"), plain, "a guarded text should be plain");
    }
    if *is_exact {
        for ids in [&plain, &parsed] {
            let mut stream = tokenizer.stream_with_special();
            let mut out: String = ids.iter().map(|id| stream.push(*id)).collect();
            out += &stream.finish();
            assert_eq!(out, text, "decoding should give the text back");
            assert_eq!(tokenizer.decode(ids, false), text);
        }
    }
});
