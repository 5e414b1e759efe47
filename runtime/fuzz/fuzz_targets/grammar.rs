//! Any text as a form of each kind: it is refused, or leads from token to token without a panic. The first byte says
//! which kind, the second how tokens are chosen.
#![no_main]

use std::sync::{Arc, LazyLock};

use kindling_models::{SpecialTokens, Tokenizer};
use kindling_runtime::grammar::{Accepted, Form, Grammars};
use libfuzzer_sys::fuzz_target;

const TOKENIZER: &[u8] = include_bytes!("../../models/tests/golden/smollm2/tokenizer.json");
/// As the service gives a form.
const STACK_BYTES: usize = 256 << 20;
/// Tokens that a form is followed for.
const STEPS: u32 = 24;

static GRAMMARS: LazyLock<Arc<Grammars>> = LazyLock::new(|| {
    let tokenizer = Tokenizer::from_json(TOKENIZER).expect("the tokenizer should be right");
    let special = SpecialTokens { eos: Some("<|im_end|>".to_owned()), ..SpecialTokens::default() };
    Arc::new(Grammars::new(Arc::new(tokenizer.with_special_tokens(special, &[]))))
});

fuzz_target!(|data: &[u8]| {
    let [kind, choice, text @ ..] = data else { return };
    let text = String::from_utf8_lossy(text).into_owned();
    let form = match kind % 4 {
        0 => Form::JsonSchema(text),
        1 => Form::Regex(text),
        2 => Form::Choice(text.split('\n').map(str::to_owned).collect()),
        _ => Form::Lark(text),
    };
    let choice = u32::from(*choice);
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
    thread.spawn(move || follow(&form, choice)).expect("a thread should start").join().expect("no panic");
});

fn follow(form: &Form, choice: u32) {
    let Ok(mut grammar) = GRAMMARS.compile_here(form) else { return };
    for step in 0..STEPS {
        let Ok(mask) = grammar.mask() else { return };
        let allowed: Vec<u32> = (0..49_152).filter(|token| mask.allows(*token)).collect();
        assert!(!allowed.is_empty(), "a form should never end in a dead end");
        let token = allowed[(choice.wrapping_mul(step + 1) as usize) % allowed.len()];
        match grammar.accept(token) {
            Accepted::More => {}
            Accepted::Complete => return,
            Accepted::Failed(reason) => panic!("token {token} was allowed: {reason}"),
        }
    }
}
