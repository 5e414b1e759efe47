//! What the cache has to keep: what LocalModels name, what runs here, what somebody asked for just now.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kindling_proto::v1::NamedModel;
use tokio::time::Instant;
use tonic::Status;

use super::desk::Snapshot;
use super::source;
use crate::collect::Named;
use crate::source::HubSource;

/// Who asked for a model so recently may still want it, whatever a list says that was made before.
const RECENTLY: Duration = Duration::from_secs(600);

/// Files of a model in a hub; none means all of it.
pub(super) type Wanted = (HubSource, Vec<String>);

/// What LocalModels named, and what was asked for.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    /// Sources by `namespace/name`; empty for a model that needs no cache. `None` before the first list.
    named: Option<BTreeMap<String, BTreeSet<Wanted>>>,
    asked: HashMap<Wanted, Instant>,
}

/// How the cache stands, for Prometheus.
#[derive(Debug, Default)]
pub struct CacheFigures {
    cached_bytes: AtomicU64,
    unnamed_bytes: AtomicU64,
    freed_bytes: AtomicU64,
}

impl CacheFigures {
    pub(super) fn set(&self, cached_bytes: u64, unnamed_bytes: u64) {
        self.cached_bytes.store(cached_bytes, Ordering::Relaxed);
        self.unnamed_bytes.store(unnamed_bytes, Ordering::Relaxed);
    }

    pub(super) fn freed(&self, bytes: u64) {
        self.freed_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What the files of the cache take on the disk, what of it nobody names, and what was taken away since the start.
    pub fn read(&self) -> (u64, u64, u64) {
        let read = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        (read(&self.cached_bytes), read(&self.unnamed_bytes), read(&self.freed_bytes))
    }
}

/// A complete list, checked.
///
/// # Errors
/// `INVALID_ARGUMENT`: of a list that is not understood nobody knows what it leaves out.
pub(super) fn check(models: Vec<NamedModel>, is_complete: bool) -> Result<BTreeMap<String, BTreeSet<Wanted>>, Status> {
    if !is_complete {
        return Err(Status::invalid_argument("is_complete: only a list of all LocalModels says what nobody names"));
    }
    let mut named: BTreeMap<String, BTreeSet<Wanted>> = BTreeMap::new();
    for NamedModel { model, source } in models {
        if model.is_empty() {
            return Err(Status::invalid_argument("models.model: is empty"));
        }
        let wanted = source::check_hub(source)
            .map_err(|error| Status::invalid_argument(format!("models: {model}: {}", error.message())))?;
        named.entry(model).or_default().extend(wanted);
    }
    Ok(named)
}

impl Keeper {
    /// Notes that somebody wants this now.
    pub(super) fn asked(&mut self, wanted: Wanted) {
        self.asked.retain(|_, at| at.elapsed() < RECENTLY);
        self.asked.insert(wanted, Instant::now());
    }

    /// Takes a new list. What a model named before stays as long as it has memory here: its pod may be of then.
    pub(super) fn take(&mut self, mut named: BTreeMap<String, BTreeSet<Wanted>>, node: &Snapshot) {
        let before = self.named.take().unwrap_or_default();
        let busy = busy(node);
        for (model, sources) in before.into_iter().filter(|(model, _)| busy.contains(model.as_str())) {
            named.entry(model).or_default().extend(sources);
        }
        self.named = Some(named);
    }

    /// What must stay, or why that can't be said.
    pub(super) fn keep(&self, node: &Snapshot) -> Result<Named, String> {
        let Some(named) = &self.named else {
            return Err("the operator has not said yet what LocalModels name".to_owned());
        };
        if !node.is_settled || node.ledger.is_none() {
            return Err("the agent does not know yet what runs on its node".to_owned());
        }
        if let Some(unknown) = busy(node).into_iter().find(|model| !named.contains_key(*model)) {
            return Err(format!("{unknown} has memory here, and it is not known what it was loaded from"));
        }
        let mut keep = Named::default();
        let recent = self.asked.iter().filter(|(_, at)| at.elapsed() < RECENTLY).map(|(wanted, _)| wanted);
        for (source, files) in named.values().flatten().chain(recent) {
            keep.add(source.clone(), files);
        }
        Ok(keep)
    }
}

/// The models that hold memory of this node, or are promised some.
fn busy(node: &Snapshot) -> BTreeSet<&str> {
    let reserved = node.ledger.iter().flat_map(|ledger| &ledger.reservations).map(|reserved| reserved.model.as_str());
    node.holders.iter().map(|holder| holder.model.as_str()).chain(reserved).collect()
}
