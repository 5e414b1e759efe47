//! Who is in: bounds the sequences that run or wait, and knows requests by the names their callers gave.
//!
//! Refusals come at once, without asking the engine's thread, which may be in the middle of a long step.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kindling_engine::RequestId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The door to the engine.
#[derive(Debug)]
pub struct Admission {
    max_running: usize,
    max_waiting: usize,
    num_sequences: watch::Sender<usize>,
    names: Mutex<HashMap<String, Entry>>,
    next_id: AtomicU64,
}

#[derive(Debug)]
struct Entry {
    id: RequestId,
    aborted: CancellationToken,
}

/// A request that is in; leaves on drop.
#[derive(Debug)]
pub struct Admitted {
    /// Its id in the engine.
    pub id: RequestId,
    /// Its name for logs and `Abort`.
    pub name: String,
    /// Cancelled by [`Admission::abort`], which may come before the engine knows the request.
    pub aborted: CancellationToken,
    num_sequences: usize,
    admission: Arc<Admission>,
}

/// Why a request stays out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
    /// Too many are in.
    #[error(
        "the waiting queue is full: {num_sequences} completions are running or waiting, \
         {max_running} may run and {max_waiting} may wait; try again later"
    )]
    Full {
        /// Sequences that are in.
        num_sequences: usize,
        /// How many may run.
        max_running: usize,
        /// How many may wait.
        max_waiting: usize,
    },
    /// Another request has this name.
    #[error("request_id {name} is in use")]
    DuplicateName {
        /// The name.
        name: String,
    },
}

impl Admission {
    /// Nobody is in.
    pub fn new(max_running: usize, max_waiting: usize) -> Self {
        Self {
            max_running,
            max_waiting,
            num_sequences: watch::Sender::new(0),
            names: Mutex::default(),
            next_id: AtomicU64::new(0),
        }
    }

    /// Lets a request in; an empty name is replaced by one that nobody has.
    ///
    /// # Errors
    /// [`AdmissionError`] if it must stay out.
    pub fn enter(self: &Arc<Self>, name: &str, num_sequences: usize) -> Result<Admitted, AdmissionError> {
        let id = RequestId(self.next_id.fetch_add(1, Ordering::Relaxed));
        let name = if name.is_empty() { format!("request-{id}") } else { name.to_owned() };
        let mut names = self.names();
        if names.contains_key(&name) {
            return Err(AdmissionError::DuplicateName { name });
        }
        let is_in = self.num_sequences.send_if_modified(|count| {
            let has_room = *count + num_sequences <= self.num_places();
            *count += if has_room { num_sequences } else { 0 };
            has_room
        });
        if !is_in {
            return Err(AdmissionError::Full {
                num_sequences: self.num_sequences(),
                max_running: self.max_running,
                max_waiting: self.max_waiting,
            });
        }
        let aborted = CancellationToken::new();
        names.insert(name.clone(), Entry { id, aborted: aborted.clone() });
        Ok(Admitted { id, name, aborted, num_sequences, admission: Arc::clone(self) })
    }

    /// Sequences that may be in at a time.
    pub fn num_places(&self) -> usize {
        self.max_running + self.max_waiting
    }

    /// Sequences that are in.
    pub fn num_sequences(&self) -> usize {
        *self.num_sequences.borrow()
    }

    /// Marks a request as aborted, so that the engine does not begin with it; if it has begun, it must be told.
    pub fn abort(&self, name: &str) -> Option<RequestId> {
        self.names().get(name).map(|entry| {
            entry.aborted.cancel();
            entry.id
        })
    }

    /// Marks all requests as aborted.
    pub fn abort_all(&self) {
        self.names().values().for_each(|entry| entry.aborted.cancel());
    }

    /// Waits until nobody is in.
    pub async fn empty(&self) {
        // The sender lives as long as `self`, so this cannot fail.
        let _ = self.num_sequences.subscribe().wait_for(|count| *count == 0).await;
    }

    fn names(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.admission.names().remove(&self.name);
        self.admission.num_sequences.send_modify(|count| *count -= self.num_sequences);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_may_wait_are_refused_until_one_leaves() {
        let admission = Arc::new(Admission::new(1, 2));
        let first = admission.enter("", 1).unwrap();
        let _others = admission.enter("", 2).unwrap();
        assert!(matches!(admission.enter("", 1), Err(AdmissionError::Full { num_sequences: 3, .. })));
        drop(first);
        assert_eq!(admission.num_sequences(), 2);
        admission.enter("", 1).unwrap();
    }

    #[test]
    fn a_name_is_free_again_when_its_request_leaves() {
        let admission = Arc::new(Admission::new(4, 4));
        let first = admission.enter("chat-1", 1).unwrap();
        assert!(matches!(admission.enter("chat-1", 1), Err(AdmissionError::DuplicateName { .. })));
        assert!(!first.aborted.is_cancelled());
        assert_eq!(admission.abort("chat-1"), Some(first.id));
        assert!(first.aborted.is_cancelled());
        drop(first);
        assert_eq!(admission.abort("chat-1"), None);
        assert!(!admission.enter("chat-1", 1).unwrap().aborted.is_cancelled());
    }
}
