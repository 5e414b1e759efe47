//! Any text as a chat template, rendered for a chat that has everything.
#![no_main]

use kindling_models::{ChatTemplate, Message, RenderInput, SpecialTokens};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|source: &str| {
    let special = SpecialTokens { bos: Some("<s>".to_owned()), ..SpecialTokens::default() };
    let Ok(template) = ChatTemplate::new(source, &special) else { return };
    let messages =
        [Message::text("system", "be brief"), Message::text("user", "hello"), Message::text("assistant", "")];
    let input =
        RenderInput { messages: &messages, tools_json: None, kwargs: Default::default(), add_generation_prompt: true };
    let _ = template.render(&input);
});
