//! A generation as server-sent events. The endpoints say how a chunk looks; this says when it is sent.

use axum::body::Body;
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream;
use http::{HeaderName, HeaderValue, header};
use serde::Serialize;

use super::call::{Answer, Head};
use crate::error::ApiError;
use crate::generate::{Delta, Event, Totals};

/// A line that clients ignore and proxies count as life.
const KEEPALIVE: Bytes = Bytes::from_static(b": keep-alive\n\n");

/// How an endpoint's chunks look.
pub trait Chunks: Send + 'static {
    /// The first chunk of a choice, where the format has one.
    fn begin(&mut self, head: &Head, choice: u32, out: &mut Frames);
    /// More of a choice.
    fn delta(&mut self, head: &Head, delta: Delta, out: &mut Frames);
    /// The end of a choice.
    fn finish(&mut self, head: &Head, finish: Finish<'_>, out: &mut Frames);
    /// Usage, after every choice has ended.
    fn usage(&mut self, head: &Head, totals: &Totals, out: &mut Frames);
}

/// The end of a choice; the last one brings the totals.
pub struct Finish<'a> {
    pub choice: u32,
    pub reason: &'static str,
    pub totals: Option<&'a Totals>,
}

/// Events that are sent together.
#[derive(Default)]
pub struct Frames(BytesMut);

impl Frames {
    /// Adds `data: …` with the chunk as JSON.
    pub fn data(&mut self, chunk: &impl Serialize) {
        self.0.put_slice(b"data: ");
        serde_json::to_writer((&mut self.0).writer(), chunk).expect("a chunk should serialise");
        self.0.put_slice(b"\n\n");
    }

    fn done(&mut self) {
        self.0.put_slice(b"data: [DONE]\n\n");
    }
}

/// Opens the stream once the runtime has said its first word, or has been silent for long enough.
///
/// # Errors
/// If the first word is a refusal: then the client gets a status code, and no stream.
pub async fn respond(mut answer: Answer, chunks: impl Chunks) -> Result<Response, ApiError> {
    let first = match tokio::time::timeout(answer.stream_open, answer.generation.next()).await {
        Ok(Some(Err(error))) => return Err(error),
        Ok(first) => first.and_then(Result::ok),
        Err(_) => None,
    };
    answer.record.stream_began();
    let has_begun = vec![false; answer.num_choices as usize];
    let events = Events { answer, chunks, first, has_begun, stage: Stage::Running };
    let frames = stream::unfold(events, |mut events| async move {
        let bytes = events.next().await?;
        Some((Ok::<_, std::convert::Infallible>(bytes), events))
    });
    let mut response = Response::new(Body::from_stream(frames));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}

struct Events<C> {
    answer: Answer,
    chunks: C,
    /// The event that opened the stream.
    first: Option<Event>,
    has_begun: Vec<bool>,
    stage: Stage,
}

enum Stage {
    Running,
    /// `[DONE]` is out; the runtime's own end is awaited.
    Done,
    Failed,
}

impl<C: Chunks> Events<C> {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            match self.stage {
                Stage::Running => {}
                Stage::Done => {
                    self.answer.generation.next().await;
                    return None;
                }
                Stage::Failed => return None,
            }
            let event = match self.first.take() {
                Some(event) => Ok(event),
                None => match tokio::time::timeout(self.answer.keepalive, self.answer.generation.next()).await {
                    Err(_) => return Some(KEEPALIVE),
                    Ok(None) => return None,
                    Ok(Some(event)) => event,
                },
            };
            let mut frames = Frames::default();
            match event {
                Ok(event) => self.write(event, &mut frames),
                Err(error) => self.fail(&error, &mut frames),
            }
            if !frames.0.is_empty() {
                return Some(frames.0.freeze());
            }
        }
    }

    fn write(&mut self, event: Event, out: &mut Frames) {
        match event {
            Event::Accepted => {}
            Event::Delta(delta) => {
                self.begin(delta.choice, out);
                self.chunks.delta(&self.answer.head, delta, out);
            }
            Event::Finished { choice, reason, totals } => {
                self.begin(choice, out);
                let head = &self.answer.head;
                self.chunks.finish(head, Finish { choice, reason, totals: totals.as_ref() }, out);
                let Some(totals) = totals else { return };
                if head.include_usage {
                    self.chunks.usage(head, &totals, out);
                }
                out.done();
                self.answer.record.stream_ended(None);
                self.stage = Stage::Done;
            }
        }
    }

    fn begin(&mut self, choice: u32, out: &mut Frames) {
        if !std::mem::replace(&mut self.has_begun[choice as usize], true) {
            self.chunks.begin(&self.answer.head, choice, out);
        }
    }

    fn fail(&mut self, error: &ApiError, out: &mut Frames) {
        out.data(&error.body());
        self.answer.record.stream_ended(Some(error.kind.status()));
        self.stage = Stage::Failed;
    }
}
