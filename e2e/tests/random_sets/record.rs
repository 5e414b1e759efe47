//! Every version of every node, ledger and pod of the story, as the API server's watches tell it. The revisions of one
//! etcd count through all kinds, so that the versions can be put into the order in which they were written.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use kube::core::WatchEvent;
use serde_json::Value;

use crate::api::Api;

/// A watch may be so much later than another.
const LATENESS: Duration = Duration::from_millis(1500);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Node,
    Ledger,
    Pod,
}

/// A version of an object.
#[derive(Clone, Debug)]
pub struct Version {
    pub revision: u64,
    pub kind: Kind,
    pub name: String,
    /// Nothing from this revision on.
    pub object: Option<Arc<Value>>,
}

/// What the watches have told.
#[derive(Clone, Default)]
pub struct Record(Arc<Mutex<Told>>);

#[derive(Default)]
struct Told {
    versions: Vec<(Instant, Version)>,
    live: BTreeMap<(Kind, String), Arc<Value>>,
    /// A watch missed something: what is told is not all.
    gap: Option<String>,
}

impl Record {
    /// Watches from now on, for as long as the runtime lives.
    pub async fn start(api: &Api, namespace: &str, prefix: &str) -> Self {
        let record = Self::default();
        let paths = [
            (Kind::Node, "/api/v1/nodes".to_owned()),
            (Kind::Ledger, "/apis/kindling.dev/v1alpha1/nodeenvelopes".to_owned()),
            (Kind::Pod, format!("/api/v1/namespaces/{namespace}/pods")),
        ];
        for (kind, path) in paths {
            let list = api.get(&path).await.expect("a list");
            let from = list["metadata"]["resourceVersion"].as_str().expect("a revision").to_owned();
            // Nothing of the story exists yet; what else there is, is no part of it.
            let prefix = if kind == Kind::Pod { String::new() } else { prefix.to_owned() };
            tokio::spawn(follow(api.clone(), record.clone(), (kind, path, prefix), from));
        }
        record
    }

    /// The objects of a kind, as a watcher knows them now.
    pub fn live(&self, kind: Kind) -> Vec<Arc<Value>> {
        let told = self.lock();
        told.live.iter().filter(|((found, _), _)| *found == kind).map(|(_, object)| Arc::clone(object)).collect()
    }

    /// The object of this name.
    pub fn find(&self, kind: Kind, name: &str) -> Option<Arc<Value>> {
        self.lock().live.get(&(kind, name.to_owned())).cloned()
    }

    /// What was told so long ago that everything before it was told too, in the order of its writing.
    pub fn take(&self, is_end: bool) -> Vec<Version> {
        let mut told = self.lock();
        assert_eq!(told.gap, None, "a watch missed something");
        let is_old = |at: &Instant| is_end || at.elapsed() >= LATENESS;
        let horizon = told.versions.iter().filter(|(at, _)| is_old(at)).map(|(_, version)| version.revision).max();
        let (ready, later) =
            told.versions.drain(..).partition(|(_, version)| Some(version.revision) <= horizon && horizon.is_some());
        told.versions = later;
        let mut ready: Vec<Version> = ready.into_iter().map(|(_, version): (Instant, Version)| version).collect();
        ready.sort_by_key(|version| version.revision);
        ready
    }

    fn note(&self, (kind, prefix): (Kind, &str), object: Value, is_gone: bool) -> String {
        let revision = object["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if name.starts_with(prefix) {
            let object = (!is_gone).then(|| Arc::new(object));
            let mut told = self.lock();
            match &object {
                Some(object) => told.live.insert((kind, name.clone()), Arc::clone(object)),
                None => told.live.remove(&(kind, name.clone())),
            };
            let number = revision.parse().expect("revisions are numbers");
            told.versions.push((Instant::now(), Version { revision: number, kind, name, object }));
        }
        revision
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Goes on where the last watch ended: nothing is missed, or it is said.
async fn follow(api: Api, record: Record, (kind, path, prefix): (Kind, String, String), mut from: String) {
    loop {
        let Ok(events) = api.watch(&path, &from).await else {
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        };
        let mut events = std::pin::pin!(events);
        while let Ok(Some(event)) = events.try_next().await {
            from = match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => record.note((kind, &prefix), object, false),
                WatchEvent::Deleted(object) => record.note((kind, &prefix), object, true),
                WatchEvent::Bookmark(bookmark) => bookmark.metadata.resource_version,
                WatchEvent::Error(status) => {
                    record.lock().gap = Some(format!("{path}: {status:?}"));
                    return;
                }
            };
        }
    }
}
