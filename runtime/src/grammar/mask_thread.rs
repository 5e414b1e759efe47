//! Computes masks while the engine's thread computes logits.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use kindling_engine::{SequenceId, TokenMask};
use llguidance::CancellationHandle;

use super::Grammar;

/// Derivatives of nested expressions nest too.
const STACK_BYTES: usize = 64 << 20;
/// After this a mask is cancelled. Bounds within llguidance end one after some 10 ms.
const PATIENCE: Duration = Duration::from_secs(2);

/// One thread for the masks of all sequences; it starts with the first one.
#[derive(Default)]
pub struct MaskThread {
    channels: Option<Channels>,
    /// Given to the thread and not come back, in the order in which they will.
    away: VecDeque<(SequenceId, CancellationHandle)>,
}

struct Channels {
    jobs: Sender<(SequenceId, Grammar)>,
    done: Receiver<Done>,
}

/// A mask that was computed, or why not.
pub struct Done {
    /// For which sequence.
    pub id: SequenceId,
    /// What may come next.
    pub mask: Result<TokenMask, String>,
    /// As given; `None` if it did not come back.
    pub grammar: Option<Grammar>,
    /// How long it took.
    pub time: Duration,
}

impl MaskThread {
    /// Begins to compute the mask of a sequence.
    ///
    /// # Errors
    /// The grammar and the reason, if there is no thread.
    pub fn begin(&mut self, id: SequenceId, grammar: Grammar) -> Result<(), String> {
        let channels = match &mut self.channels {
            Some(channels) => channels,
            none => none.insert(start().map_err(|error| format!("start the thread of masks: {error}"))?),
        };
        let cancellation = grammar.0.cancellation_handle().unwrap_or_default();
        channels.jobs.send((id, grammar)).map_err(|_| "the thread of masks has ended".to_owned())?;
        self.away.push_back((id, cancellation));
        Ok(())
    }

    /// Waits for all masks that were begun.
    pub fn collect(&mut self) -> Vec<Done> {
        let mut all = Vec::new();
        while let Some((_, cancellation)) = self.away.front() {
            match self.channels.as_ref().and_then(|channels| channels.done.recv_timeout(PATIENCE).ok()) {
                Some(done) => {
                    self.away.pop_front();
                    all.push(done);
                }
                // It comes back with an error, and those behind it get their turn.
                None if !cancellation.is_cancelled() => cancellation.cancel(),
                None => all.extend(self.give_up()),
            }
        }
        all
    }

    /// Leaves the thread to itself; it ends when it finds that nobody wants its masks.
    fn give_up(&mut self) -> Vec<Done> {
        self.channels = None;
        let mut all = Vec::new();
        for (id, cancellation) in self.away.drain(..) {
            cancellation.cancel();
            let mask = Err("the thread that finds allowed tokens is stuck or has ended".to_owned());
            all.push(Done { id, mask, grammar: None, time: PATIENCE });
        }
        all
    }
}

fn start() -> std::io::Result<Channels> {
    let (jobs, todo) = channel::<(SequenceId, Grammar)>();
    let (send_done, done) = channel();
    std::thread::Builder::new().name("kindling-masks".to_owned()).stack_size(STACK_BYTES).spawn(move || {
        for (id, mut grammar) in todo {
            let started = Instant::now();
            let mask = grammar.mask();
            let done = Done { id, mask, grammar: Some(grammar), time: started.elapsed() };
            if send_done.send(done).is_err() {
                return;
            }
        }
    })?;
    Ok(Channels { jobs, done })
}
