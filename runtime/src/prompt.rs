//! From messages or text to token ids.

use std::cell::RefCell;
use std::collections::HashSet;
use std::ops::RangeInclusive;

use kindling_models::dialect::{Answers, THINK_START};
use kindling_models::{Message, RenderInput, map_texts};
use kindling_proto::v1::generate_request::Input;
use kindling_proto::v1::{ChatInput, ChatMessage};
use serde_json::Value as Json;

use crate::loaded_model::LoadedModel;
use crate::reasoning::Reading;
use crate::refusal::Refusal;
use crate::validate::check_token;

/// Unicode's private characters: no text needs them all.
const GUARDS: RangeInclusive<char> = '\u{e000}'..='\u{f8ff}';

/// What the engine is given, and how its answer is to be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prompt {
    /// At least one, and room for one more in the context.
    pub tokens: Vec<u32>,
    /// Of a chat's answer; a text's continuation is all content.
    pub reading: Reading,
}

/// The prompt of a request's input.
///
/// # Errors
/// [`Refusal`] if the input cannot be made into one, or the answer could not be read.
pub fn prompt(model: &LoadedModel, input: Option<Input>) -> Result<Prompt, Refusal> {
    let prompt = match input {
        None => return Err(Refusal::EmptyPrompt),
        Some(Input::TokenIds(tokens)) => {
            tokens.ids.iter().try_for_each(|token| check_token("token_ids", *token, model.vocab_size))?;
            Prompt { tokens: tokens.ids, reading: Reading::Content }
        }
        Some(Input::Text(text)) => Prompt { tokens: text_tokens(model, &text, true)?, reading: Reading::Content },
        Some(Input::Chat(chat)) => {
            if let Some(answers) = model.dialect.answers.refusal() {
                return Err(Refusal::Dialect { answers });
            }
            chat_prompt(model, &chat)?
        }
    };
    let prompt_tokens = prompt.tokens.len();
    if prompt_tokens == 0 {
        return Err(Refusal::EmptyPrompt);
    }
    if prompt_tokens >= model.max_model_len {
        return Err(Refusal::PromptTooLong { prompt_tokens, max_model_len: model.max_model_len });
    }
    Ok(prompt)
}

/// Token ids of a text. Names of special tokens in it are special tokens: completions are for those who write prompts
/// by hand.
///
/// # Errors
/// [`Refusal::Tokenizer`] if the tokenizer fails.
pub fn text_tokens(model: &LoadedModel, text: &str, add_special: bool) -> Result<Vec<u32>, Refusal> {
    check_length(model, text)?;
    model.tokenizer.encode(text, add_special, true).map_err(|error| Refusal::Tokenizer(error.to_string()))
}

/// Refuses a text that must be too long whatever its tokens are, before the work of finding them.
fn check_length(model: &LoadedModel, text: &str) -> Result<(), Refusal> {
    let most = model.max_model_len.saturating_mul(model.tokenizer.longest_token());
    if text.len() > most {
        let max_model_len = model.max_model_len;
        return Err(Refusal::TextTooLong { bytes: text.len(), max_bytes: most, max_model_len });
    }
    Ok(())
}

/// A rendered conversation; the template has put in what the tokenizer would add.
///
/// # Errors
/// [`Refusal`] if a field is not JSON, or template or tokenizer fail.
pub fn chat_prompt(model: &LoadedModel, chat: &ChatInput) -> Result<Prompt, Refusal> {
    let template = model.chat_template.as_ref().ok_or(Refusal::NoChatTemplate)?;
    if chat.messages.is_empty() {
        return Err(Refusal::EmptyPrompt);
    }
    let mut messages = chat.messages.iter().map(message).collect::<Result<Vec<_>, _>>()?;
    let mut tools_json = json("tools_json", &chat.tools_json, "it must be a JSON array", Json::is_array)?;
    let mut kwargs =
        json("template_kwargs_json", &chat.template_kwargs_json, "it must be a JSON object", Json::is_object)?;
    let guard = guard_texts(model, template.source(), &mut messages, [&mut tools_json, &mut kwargs])?;
    let input = RenderInput {
        messages: &messages,
        tools_json,
        kwargs: kwargs.and_then(|kwargs| kwargs.as_object().cloned()).unwrap_or_default(),
        add_generation_prompt: chat.add_generation_prompt.unwrap_or(true),
    };
    let text = template.render(&input).map_err(|error| Refusal::Template(error.to_string().replace(guard, "")))?;
    check_length(model, &text)?;
    let tokens = model.tokenizer.encode_guarded(&text, guard);
    let tokens = tokens.map_err(|error| Refusal::Tokenizer(error.to_string()))?;
    let reading = match model.dialect.answers {
        Answers::Think if text.trim_end().ends_with(THINK_START) => Reading::Reasons,
        Answers::Think => Reading::MayReason,
        _ => Reading::Content,
    };
    Ok(Prompt { tokens, reading })
}

/// Only the template may steer: names of special tokens in what a client sent get a guard inside, which the tokenizer
/// takes out again once it has found the special tokens. Returns the guard.
fn guard_texts(
    model: &LoadedModel,
    source: &str,
    messages: &mut [Message],
    others: [&mut Option<Json>; 2],
) -> Result<char, Refusal> {
    let mut others = others.map(|value| value.as_mut());
    let mut map_all = |change: &dyn Fn(&str) -> String| {
        messages.iter_mut().for_each(|message| message.map_texts(change));
        others.iter_mut().flatten().for_each(|value| map_texts(value, change));
    };
    let used = RefCell::new(HashSet::new());
    let note = |text: &str| {
        used.borrow_mut().extend(text.chars().filter(|character| GUARDS.contains(character)));
        text.to_owned()
    };
    note(source);
    map_all(&note);
    let used = used.into_inner();
    let guard = GUARDS.clone().find(|guard| !used.contains(guard) && model.tokenizer.can_guard(*guard));
    let guard = guard.ok_or_else(|| Refusal::Template("the messages use all private characters".to_owned()))?;
    map_all(&|text| model.tokenizer.guard(text, guard));
    Ok(guard)
}

fn message(message: &ChatMessage) -> Result<Message, Refusal> {
    let ChatMessage { role, content, name, tool_call_id, tool_calls_json } = message;
    if role.is_empty() {
        let expected = "every message needs one".to_owned();
        return Err(Refusal::Field { field: "role", value: "empty".to_owned(), expected });
    }
    let tool_calls = json("tool_calls_json", tool_calls_json, "it must be a JSON array", Json::is_array)?;
    // Beside tool calls, templates tell no content from an empty one.
    let content = if content.is_empty() && tool_calls.is_some() { Json::Null } else { Json::from(content.as_str()) };
    let present = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let (name, tool_call_id) = (present(name), present(tool_call_id));
    Ok(Message { role: role.clone(), content, name, tool_call_id, tool_calls, ..Message::default() })
}

fn json(field: &'static str, text: &str, expected: &str, is_right: fn(&Json) -> bool) -> Result<Option<Json>, Refusal> {
    if text.is_empty() {
        return Ok(None);
    }
    match serde_json::from_str(text) {
        Ok(value) if is_right(&value) => Ok(Some(value)),
        _ => {
            let value = text.chars().take(80).collect();
            Err(Refusal::Field { field, value, expected: expected.to_owned() })
        }
    }
}

#[cfg(test)]
mod tests;
