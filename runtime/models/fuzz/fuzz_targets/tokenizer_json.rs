//! Any text as a tokenizer.json: it is refused, or encodes and decodes without a panic.
#![no_main]

use std::sync::Arc;

use kindling_models::Tokenizer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|json: &[u8]| {
    let Ok(tokenizer) = Tokenizer::from_json(json) else { return };
    let tokenizer = Arc::new(tokenizer);
    let mut stream = tokenizer.stream();
    for id in tokenizer.encode("Hello, wörld! <s> 123", true, true).unwrap_or_default() {
        stream.push(id);
    }
    stream.finish();
});
