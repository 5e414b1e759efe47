//! The events of a chat stream.

use serde::Serialize;

use crate::generate::{self, Totals};
use crate::openai::call::{FINGERPRINT, Head};
use crate::openai::logprobs::ChatLogprobs;
use crate::openai::sse::{Chunks, Finish, Frames};
use crate::openai::usage::{Timings, Usage};

/// How chat chunks look.
pub struct ChatChunks {
    pub has_logprobs: bool,
}

#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: i64,
    model: &'a str,
    system_fingerprint: &'static str,
    choices: &'a [Choice<'a>],
    /// Absent if it was not asked for; null until the end if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timings: Option<Timings>,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: u32,
    delta: Delta<'a>,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<&'static str>,
}

#[derive(Serialize, Default)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    /// Clients are split between these two names; both get the text.
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<Option<&'a str>>,
}

fn chunk<'a>(head: &'a Head, choices: &'a [Choice<'a>]) -> Chunk<'a> {
    Chunk {
        id: &head.id,
        object: "chat.completion.chunk",
        created: head.created,
        model: &head.model,
        system_fingerprint: FINGERPRINT,
        choices,
        usage: head.include_usage.then_some(None),
        timings: None,
    }
}

impl Chunks for ChatChunks {
    fn begin(&mut self, head: &Head, choice: u32, out: &mut Frames) {
        let delta = Delta { role: Some("assistant"), content: Some(""), refusal: Some(None), ..Delta::default() };
        out.data(&chunk(head, &[Choice { index: choice, delta, logprobs: None, finish_reason: None }]));
    }

    fn delta(&mut self, head: &Head, delta: generate::Delta, out: &mut Frames) {
        let generate::Delta { choice, text, is_reasoning, logprobs: tokens } = delta;
        let text = Some(text.as_str());
        let delta = if is_reasoning {
            Delta { reasoning_content: text, reasoning: text, ..Delta::default() }
        } else {
            Delta { content: text, ..Delta::default() }
        };
        let logprobs = self.has_logprobs.then(|| {
            let mut logprobs = ChatLogprobs::default();
            logprobs.extend(tokens);
            logprobs
        });
        out.data(&chunk(head, &[Choice { index: choice, delta, logprobs, finish_reason: None }]));
    }

    fn finish(&mut self, head: &Head, finish: Finish<'_>, out: &mut Frames) {
        let Finish { choice, reason, totals } = finish;
        let last = [Choice { index: choice, delta: Delta::default(), logprobs: None, finish_reason: Some(reason) }];
        out.data(&Chunk { timings: totals.map(Timings::from), ..chunk(head, &last) });
    }

    fn usage(&mut self, head: &Head, totals: &Totals, out: &mut Frames) {
        out.data(&Chunk { usage: Some(Some(totals.into())), timings: Some(totals.into()), ..chunk(head, &[]) });
    }
}
