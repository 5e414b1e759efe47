//! From the engine's thread to one client: ordered, bounded, never blocking.
//!
//! The engine never waits for a client. When a client reads too slowly, deltas are merged with the last one of the
//! same completion that it has not read yet: nothing is lost, and memory is bounded by the text itself.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures::Stream;
use kindling_proto::v1::delta::Kind;
use kindling_proto::v1::generate_response::Event;
use kindling_proto::v1::{Delta, GenerateResponse};
use tonic::Status;

/// Messages kept apart for one client before deltas are merged.
const CAPACITY: usize = 64;

#[derive(Default)]
struct State {
    events: VecDeque<Event>,
    error: Option<Status>,
    is_closed: bool,
    waker: Option<Waker>,
}

/// The engine's end. Dropped without [`Outbox::close`] it leaves an error: the engine died.
pub struct Outbox {
    shared: Arc<Mutex<State>>,
}

/// The client's end: a stream of responses. Calls back when it is dropped before its end.
pub struct Inbox {
    shared: Arc<Mutex<State>>,
    on_hang_up: Option<Box<dyn FnOnce() + Send + Sync>>,
}

/// Both ends of a new channel.
pub fn channel(on_hang_up: impl FnOnce() + Send + Sync + 'static) -> (Outbox, Inbox) {
    let shared = Arc::new(Mutex::new(State::default()));
    (Outbox { shared: Arc::clone(&shared) }, Inbox { shared, on_hang_up: Some(Box::new(on_hang_up)) })
}

impl Outbox {
    /// Sends without waiting.
    pub fn send(&self, event: Event) {
        let mut state = lock(&self.shared);
        let event = if state.events.len() >= CAPACITY { merge(&mut state.events, event) } else { Some(event) };
        state.events.extend(event);
        wake(state);
    }

    /// The last message was sent.
    pub fn close(self) {
        let mut state = lock(&self.shared);
        state.is_closed = true;
        wake(state);
    }

    /// Ends with an error, after what was sent before.
    pub fn fail(self, error: Status) {
        let mut state = lock(&self.shared);
        state.is_closed = true;
        state.error = Some(error);
        wake(state);
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let mut state = lock(&self.shared);
        if !state.is_closed {
            state.is_closed = true;
            state.error = Some(Status::internal("the engine stopped while it worked on this request"));
            wake(state);
        }
    }
}

impl Stream for Inbox {
    type Item = Result<GenerateResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = lock(&self.shared);
        if let Some(event) = state.events.pop_front() {
            return Poll::Ready(Some(Ok(GenerateResponse { event: Some(event) })));
        }
        if !state.is_closed {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let error = state.error.take();
        drop(state);
        self.on_hang_up = None;
        Poll::Ready(error.map(Err))
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        if let Some(on_hang_up) = self.on_hang_up.take() {
            on_hang_up();
        }
    }
}

/// Appends a delta to the last one of the same completion; gives the event back if there is none.
fn merge(events: &mut VecDeque<Event>, event: Event) -> Option<Event> {
    let Event::Delta(delta) = event else { return Some(event) };
    let last = events.iter_mut().rev().find_map(|event| match event {
        Event::Delta(last) if last.index == delta.index => Some(last),
        _ => None,
    });
    let is_merged = last.is_some_and(|last| append(last, &delta));
    if is_merged { None } else { Some(Event::Delta(delta)) }
}

fn append(last: &mut Delta, delta: &Delta) -> bool {
    match (&mut last.kind, &delta.kind) {
        (Some(Kind::Content(text)), Some(Kind::Content(more)))
        | (Some(Kind::Reasoning(text)), Some(Kind::Reasoning(more))) => text.push_str(more),
        _ => return false,
    }
    last.token_ids.extend_from_slice(&delta.token_ids);
    last.logprobs.extend_from_slice(&delta.logprobs);
    true
}

fn lock(shared: &Mutex<State>) -> MutexGuard<'_, State> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wake(mut state: MutexGuard<'_, State>) {
    let waker = state.waker.take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures::{FutureExt as _, StreamExt as _};
    use kindling_proto::v1::Finish;

    use super::*;

    /// Nothing here has to wait.
    fn block_on<F: Future>(future: F) -> F::Output {
        future.now_or_never().unwrap()
    }

    fn delta(index: u32, token: u32) -> Event {
        let kind = Some(Kind::Content(format!("{token} ")));
        Event::Delta(Delta { index, kind, token_ids: vec![token], logprobs: Vec::new() })
    }

    #[test]
    fn a_slow_client_gets_merged_deltas_and_loses_none() {
        let (outbox, inbox) = channel(|| {});
        for token in 0..1000 {
            outbox.send(delta(token % 2, token));
        }
        outbox.send(Event::Finish(Finish { index: 0, ..Finish::default() }));
        outbox.close();
        let events: Vec<_> = block_on(inbox.collect::<Vec<_>>()).into_iter().map(|event| event.unwrap()).collect();
        assert_eq!(events.len(), CAPACITY + 1);
        for index in 0..2 {
            let mut tokens = Vec::new();
            let mut text = String::new();
            for event in &events {
                let Some(Event::Delta(delta)) = &event.event else { continue };
                if delta.index == index {
                    tokens.extend_from_slice(&delta.token_ids);
                    let Some(Kind::Content(content)) = &delta.kind else { panic!() };
                    text.push_str(content);
                }
            }
            let expected: Vec<u32> = (0..1000).filter(|token| token % 2 == index).collect();
            assert_eq!(tokens, expected);
            assert_eq!(text, expected.iter().map(|token| format!("{token} ")).collect::<String>());
        }
    }

    #[test]
    fn a_dropped_outbox_is_an_error_and_a_closed_one_is_not() {
        let (outbox, mut inbox) = channel(|| {});
        assert!(inbox.next().now_or_never().is_none());
        drop(outbox);
        assert_eq!(block_on(inbox.next()).unwrap().unwrap_err().code(), tonic::Code::Internal);
        assert!(block_on(inbox.next()).is_none());
        let (outbox, mut inbox) = channel(|| {});
        outbox.close();
        assert!(block_on(inbox.next()).is_none());
    }

    #[test]
    fn hanging_up_is_told_unless_the_stream_has_ended() {
        for has_ended in [false, true] {
            let told = Arc::new(AtomicBool::new(false));
            let tell = Arc::clone(&told);
            let (outbox, mut inbox) = channel(move || tell.store(true, Ordering::Relaxed));
            if has_ended {
                outbox.close();
                assert!(block_on(inbox.next()).is_none());
            }
            drop(inbox);
            assert_eq!(told.load(Ordering::Relaxed), !has_ended);
        }
    }
}
