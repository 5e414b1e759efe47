//! A text completion in one piece.

use axum::response::Response;
use serde::Serialize;

use crate::body;
use crate::error::ApiError;
use crate::generate::{Event, Totals};
use crate::openai::call::{Answer, FINGERPRINT};
use crate::openai::logprobs::TextLogprobs;
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
    text: String,
    logprobs: Option<TextLogprobs>,
    finish_reason: &'static str,
}

/// Waits for every choice.
pub async fn collect(mut answer: Answer, has_logprobs: bool) -> Result<Response, ApiError> {
    let empty = |index| Choice {
        index,
        text: String::new(),
        logprobs: has_logprobs.then(TextLogprobs::default),
        finish_reason: "stop",
    };
    let mut choices: Vec<Choice> = (0..answer.num_choices).map(empty).collect();
    let mut counted = Totals::default();
    while let Some(event) = answer.generation.next().await {
        match event? {
            Event::Accepted => {}
            Event::Delta(delta) => {
                let Choice { text, logprobs, .. } = &mut choices[delta.choice as usize];
                text.push_str(&delta.text);
                if let Some(logprobs) = logprobs {
                    logprobs.extend(delta.logprobs);
                }
            }
            Event::Finished { choice, reason, totals } => {
                choices[choice as usize].finish_reason = reason;
                counted = totals.unwrap_or(counted);
            }
        }
    }
    body::json(&Completion {
        id: &answer.head.id,
        object: "text_completion",
        created: answer.head.created,
        model: &answer.head.model,
        system_fingerprint: FINGERPRINT,
        choices,
        usage: (&counted).into(),
        timings: (&counted).into(),
    })
}
