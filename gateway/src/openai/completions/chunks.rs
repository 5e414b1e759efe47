//! The events of a text stream.

use serde::Serialize;

use crate::generate::{self, Totals};
use crate::openai::call::{FINGERPRINT, Head};
use crate::openai::logprobs::TextLogprobs;
use crate::openai::sse::{Chunks, Finish, Frames};
use crate::openai::usage::{Timings, Usage};

/// How text chunks look.
pub struct TextChunks {
    /// One for each choice, which counts its offsets; `None` if they were not asked for.
    logprobs: Option<Vec<TextLogprobs>>,
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
    text: &'a str,
    logprobs: Option<TextLogprobs>,
    finish_reason: Option<&'static str>,
}

fn chunk<'a>(head: &'a Head, choices: &'a [Choice<'a>]) -> Chunk<'a> {
    Chunk {
        id: &head.id,
        object: "text_completion",
        created: head.created,
        model: &head.model,
        system_fingerprint: FINGERPRINT,
        choices,
        usage: head.include_usage.then_some(None),
        timings: None,
    }
}

impl TextChunks {
    pub fn new(num_choices: u32, has_logprobs: bool) -> Self {
        Self { logprobs: has_logprobs.then(|| (0..num_choices).map(|_| TextLogprobs::default()).collect()) }
    }
}

impl Chunks for TextChunks {
    fn begin(&mut self, _: &Head, _: u32, _: &mut Frames) {}

    fn delta(&mut self, head: &Head, delta: generate::Delta, out: &mut Frames) {
        let generate::Delta { choice, text, logprobs: tokens, .. } = delta;
        let logprobs = self.logprobs.as_mut().map(|all| {
            let logprobs = &mut all[choice as usize];
            logprobs.extend(tokens);
            logprobs.take()
        });
        out.data(&chunk(head, &[Choice { index: choice, text: &text, logprobs, finish_reason: None }]));
    }

    fn finish(&mut self, head: &Head, finish: Finish<'_>, out: &mut Frames) {
        let Finish { choice, reason, totals } = finish;
        let last = [Choice { index: choice, text: "", logprobs: None, finish_reason: Some(reason) }];
        out.data(&Chunk { timings: totals.map(Timings::from), ..chunk(head, &last) });
    }

    fn usage(&mut self, head: &Head, totals: &Totals, out: &mut Frames) {
        out.data(&Chunk { usage: Some(Some(totals.into())), timings: Some(totals.into()), ..chunk(head, &[]) });
    }
}
