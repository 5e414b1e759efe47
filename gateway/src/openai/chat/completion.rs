//! A chat answer in one piece.

use axum::response::Response;
use serde::Serialize;

use crate::body;
use crate::error::ApiError;
use crate::generate::{Event, Totals};
use crate::openai::call::{Answer, FINGERPRINT};
use crate::openai::logprobs::ChatLogprobs;
use crate::openai::usage::{Timings, Usage};

#[derive(Serialize)]
struct Completion<'a> {
    id: &'a str,
    object: &'static str,
    created: i64,
    model: &'a str,
    system_fingerprint: &'static str,
    choices: Vec<Choice>,
    usage: Usage,
    timings: Timings,
}

#[derive(Serialize)]
struct Choice {
    index: u32,
    message: Message,
    logprobs: Option<ChatLogprobs>,
    finish_reason: &'static str,
}

#[derive(Serialize)]
struct Message {
    role: &'static str,
    content: String,
    refusal: Option<String>,
    /// Clients are split between these two names; both get the text.
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<String>,
}

/// Waits for every choice.
pub async fn collect(mut answer: Answer, has_logprobs: bool) -> Result<Response, ApiError> {
    let mut choices: Vec<Choice> = (0..answer.num_choices).map(|index| Choice::new(index, has_logprobs)).collect();
    let mut counted = Totals::default();
    while let Some(event) = answer.generation.next().await {
        match event? {
            Event::Accepted => {}
            Event::Delta(delta) => {
                let Choice { message, logprobs, .. } = &mut choices[delta.choice as usize];
                if delta.is_reasoning {
                    message.reasoning.get_or_insert_default().push_str(&delta.text);
                } else {
                    message.content.push_str(&delta.text);
                }
                if let Some(logprobs) = logprobs {
                    logprobs.extend(delta.logprobs);
                }
            }
            Event::Finished { choice, reason, totals } => {
                let Choice { message, finish_reason, .. } = &mut choices[choice as usize];
                *finish_reason = reason;
                message.reasoning_content = message.reasoning.clone();
                counted = totals.unwrap_or(counted);
            }
        }
    }
    body::json(&Completion {
        id: &answer.head.id,
        object: "chat.completion",
        created: answer.head.created,
        model: &answer.head.model,
        system_fingerprint: FINGERPRINT,
        choices,
        usage: (&counted).into(),
        timings: (&counted).into(),
    })
}

impl Choice {
    fn new(index: u32, has_logprobs: bool) -> Self {
        let message = Message {
            role: "assistant",
            content: String::new(),
            refusal: None,
            reasoning_content: None,
            reasoning: None,
        };
        Self { index, message, logprobs: has_logprobs.then(ChatLogprobs::default), finish_reason: "stop" }
    }
}
