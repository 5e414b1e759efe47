//! Models that are loaded when a request comes: says that they are wanted, and holds the requests meanwhile.
//!
//! A request that is held or answered is a use of its model. While there is one, a Lease beside the LocalModel is
//! renewed every few seconds; the operator reads it and decides. Nothing else is ever written.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::backend::Backend;
use crate::discovery::{Model, OnDemand, Routes};
use crate::error::{ApiError, ErrorKind};

/// Between two renewals: the operator counts a model as used for ten seconds after each.
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// A model that was not used for so long begins to be wanted anew.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);
/// What a client is told that was held for as long as it may: what it waits for goes on meanwhile.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Writes that a model is in use.
pub trait UseWriter: Send + Sync {
    /// Says that it is in use now, and has been since `age` ago. Failures are told by the writer; the next renewal is the
    /// next try.
    fn write(&self, model: OnDemand, age: Duration) -> BoxFuture<'_, ()>;
}

/// Who uses what.
pub(crate) struct Activation {
    uses: Arc<Mutex<HashMap<String, Use>>>,
    begun: Arc<Notify>,
    max_held: usize,
    hold: Duration,
    _renewing: AbortOnDropHandle<()>,
}

struct Use {
    model: OnDemand,
    since: Instant,
    last: Instant,
    count: usize,
    held: usize,
}

/// One request's use of a model; ends when it is dropped.
pub(crate) struct InUse {
    uses: Arc<Mutex<HashMap<String, Use>>>,
    canonical: String,
}

/// One request's place among those that are held.
struct Held<'a>(&'a InUse);

impl Activation {
    /// Renews through `writer`; holds at most `max_held` requests for each model, each for `hold`.
    pub(crate) fn new(writer: Option<Arc<dyn UseWriter>>, max_held: usize, hold: Duration) -> Self {
        let uses = Arc::new(Mutex::default());
        let begun = Arc::new(Notify::new());
        let renewing = tokio::spawn(renew(Arc::clone(&uses), Arc::clone(&begun), writer));
        Self { uses, begun, max_held, hold, _renewing: AbortOnDropHandle::new(renewing) }
    }

    /// Notes a use of a model, if that is of any consequence.
    pub(crate) fn begin(&self, model: &Model) -> Option<InUse> {
        let on_demand = model.route.on_demand.clone()?;
        let now = Instant::now();
        let mut uses = lock(&self.uses);
        let entry = uses.entry(model.canonical.clone()).or_insert_with(|| Use {
            model: on_demand.clone(),
            since: now,
            last: now,
            count: 0,
            held: 0,
        });
        if entry.count == 0 && now.duration_since(entry.last) > FORGOTTEN_AFTER {
            entry.since = now;
        }
        (entry.model, entry.last, entry.count) = (on_demand, now, entry.count + 1);
        if entry.count == 1 {
            self.begun.notify_one();
        }
        drop(uses);
        Some(InUse { uses: Arc::clone(&self.uses), canonical: model.canonical.clone() })
    }

    /// Waits until the model can be asked. Who is not loaded on demand is not waited for.
    ///
    /// # Errors
    /// 503 with what is awaited: at once if too many wait already or waiting is no use, else when the time is up.
    pub(crate) async fn backend(
        &self,
        routes: &Routes,
        name: &str,
        in_use: Option<&InUse>,
    ) -> Result<Backend, ApiError> {
        let give_up = Instant::now() + self.hold;
        let mut tables = routes.subscribe();
        let mut held = None;
        loop {
            let found = tables.borrow_and_update().resolve(name)?;
            let refusal = match found.backend() {
                Ok(backend) => return Ok(backend.clone()),
                Err(refusal) => refusal,
            };
            let Some(in_use) = in_use.filter(|_| found.is_activated()) else { return Err(refusal) };
            if held.is_none() {
                held = Some(in_use.hold(self.max_held).ok_or_else(|| self.too_many(&found.id))?);
            }
            match tokio::time::timeout_at(give_up, tables.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(refusal),
                Err(_) => return Err(refusal.retry_after(Some(RETRY_AFTER))),
            }
        }
    }

    fn too_many(&self, id: &str) -> ApiError {
        let message = format!("the model '{id}' is being loaded, and {} requests wait for it already", self.max_held);
        ApiError::new(ErrorKind::ModelUnavailable, message)
    }
}

impl InUse {
    fn hold(&self, max_held: usize) -> Option<Held<'_>> {
        let mut uses = lock(&self.uses);
        let entry = uses.get_mut(&self.canonical)?;
        if entry.held >= max_held {
            return None;
        }
        entry.held += 1;
        Some(Held(self))
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(entry) = lock(&self.0.uses).get_mut(&self.0.canonical) {
            entry.held = entry.held.saturating_sub(1);
        }
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        if let Some(entry) = lock(&self.uses).get_mut(&self.canonical) {
            entry.count = entry.count.saturating_sub(1);
            entry.last = Instant::now();
        }
    }
}

/// Says at once that a use begins, and again and again that it goes on.
async fn renew(uses: Arc<Mutex<HashMap<String, Use>>>, begun: Arc<Notify>, writer: Option<Arc<dyn UseWriter>>) {
    let mut due = Instant::now() + RENEW_EVERY;
    loop {
        let is_due = tokio::select! {
            () = begun.notified() => false,
            () = tokio::time::sleep_until(due) => true,
        };
        if is_due {
            due = Instant::now() + RENEW_EVERY;
        }
        let now = Instant::now();
        let current: Vec<(OnDemand, Duration)> = {
            let mut uses = lock(&uses);
            uses.retain(|_, entry| entry.count > 0 || now.duration_since(entry.last) <= FORGOTTEN_AFTER);
            let in_use = uses.values().filter(|entry| entry.count > 0);
            in_use.map(|entry| (entry.model.clone(), now.duration_since(entry.since))).collect()
        };
        if let Some(writer) = &writer {
            futures::future::join_all(current.into_iter().map(|(model, age)| writer.write(model, age))).await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
