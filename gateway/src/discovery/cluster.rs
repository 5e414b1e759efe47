//! Routes from the cluster: a watch on LocalModels, restarted with backoff, and one lazy channel per endpoint.
//!
//! The watch keeps its last state while the API server is away, so models go on being served.

use std::collections::HashMap;
use std::sync::Arc;

use futures::StreamExt;
use kindling_api::{Activation, ConditionType, LocalModel};
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;

use super::table::{Availability, OnDemand, Route, RouteTable};
use crate::backend::{Backend, Runtime};

/// The LocalModels of a cluster.
#[derive(Clone)]
pub struct Cluster {
    /// How to reach the API server.
    pub client: Client,
    /// The one namespace to follow; `None` follows all.
    pub namespace: Option<String>,
}

/// Turns every change in the cluster into a table.
pub(super) async fn feed(cluster: Cluster, tables: watch::Sender<Arc<RouteTable>>) {
    let api: Api<LocalModel> = match &cluster.namespace {
        Some(namespace) => Api::namespaced(cluster.client, namespace),
        None => Api::all(cluster.client),
    };
    let (store, writer) = reflector::store();
    let events = reflector(writer, watcher(api, watcher::Config::default())).default_backoff();
    let mut events = std::pin::pin!(events);
    let mut channels = Channels::default();
    let mut is_synced = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::InitDone) => is_synced = true,
            // The store swaps as a whole when the list is complete; until then the old one holds.
            Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => continue,
            Ok(watcher::Event::Apply(_) | watcher::Event::Delete(_)) => {}
            Err(error) => {
                tracing::warn!(%error, "watching LocalModels failed; trying again");
                continue;
            }
        }
        if is_synced {
            let table = table(&store.state(), &mut channels);
            tracing::debug!(models = table.models.len(), "routes changed");
            tables.send_replace(Arc::new(table));
        }
    }
}

fn table(models: &[Arc<LocalModel>], channels: &mut Channels) -> RouteTable {
    let routes: Vec<Route> = models.iter().map(|model| route(model, channels)).collect();
    channels.keep_only(models);
    RouteTable::new(routes)
}

fn route(model: &LocalModel, channels: &mut Channels) -> Route {
    let endpoints = endpoints(model);
    let backend = channels.get(&endpoints);
    let availability = match (availability(model), &backend) {
        (Availability::Ready, None) if !endpoints.is_empty() => Availability::Unavailable {
            message: format!("its endpoint {:?} is no address", endpoints.join(", ")),
            retry_after: None,
        },
        (availability, _) => availability,
    };
    Route {
        name: model.name_any(),
        namespace: model.namespace(),
        aliases: aliases(model),
        created: model.creation_timestamp().map_or(0, |time| time.0.as_second()),
        availability,
        backend,
        on_demand: on_demand(model),
    }
}

/// Reasons for which no request brings a model: somebody has to change something first.
const NEVER_COMES: [&str; 4] = ["DoesNotFit", "SourceNotFound", "NotRunnable", "Suspended"];

fn on_demand(model: &LocalModel) -> Option<OnDemand> {
    if model.spec.lifecycle.activation != Activation::OnDemand || model.spec.replicas == 0 {
        return None;
    }
    let ready = model.status.as_ref().and_then(|status| status.condition(ConditionType::Ready));
    Some(OnDemand {
        namespace: model.namespace()?,
        name: model.name_any(),
        uid: model.uid()?,
        can_come: ready.is_none_or(|ready| !NEVER_COMES.contains(&ready.reason.as_str())),
    })
}

/// Channels by endpoint, so that a change of anything but the endpoints keeps the connections.
#[derive(Default)]
struct Channels {
    open: HashMap<String, Runtime>,
    /// By the endpoints of all copies.
    backends: HashMap<Vec<String>, Backend>,
}

impl Channels {
    /// Nothing if there is no endpoint, or one is no address.
    fn get(&mut self, endpoints: &[String]) -> Option<Backend> {
        if let Some(backend) = self.backends.get(endpoints) {
            return Some(backend.clone());
        }
        let runtimes: Option<Vec<Runtime>> = endpoints.iter().map(|endpoint| self.runtime(endpoint)).collect();
        let backend = runtimes.filter(|runtimes| !runtimes.is_empty()).map(Backend::of)?;
        self.backends.insert(endpoints.to_owned(), backend.clone());
        Some(backend)
    }

    fn runtime(&mut self, endpoint: &str) -> Option<Runtime> {
        if let Some(runtime) = self.open.get(endpoint) {
            return Some(runtime.clone());
        }
        let runtime = Runtime::at(endpoint).ok()?;
        self.open.insert(endpoint.to_owned(), runtime.clone());
        Some(runtime)
    }

    fn keep_only(&mut self, models: &[Arc<LocalModel>]) {
        let used: Vec<Vec<String>> = models.iter().map(|model| endpoints(model)).collect();
        self.backends.retain(|open, _| used.contains(open));
        self.open.retain(|open, _| used.iter().any(|endpoints| endpoints.contains(open)));
    }
}

/// Of several copies those that serve, since a connection to the Service would lead to the same one for ever; of an only
/// one the Service, whose address stays when the pod is replaced.
fn endpoints(model: &LocalModel) -> Vec<String> {
    let Some(status) = &model.status else { return Vec::new() };
    let serving = status.copies.iter().filter(|copy| copy.ready).filter_map(|copy| copy.address.clone());
    let serving: Vec<String> = serving.collect();
    if serving.is_empty() { status.endpoint.iter().cloned().collect() } else { serving }
}

fn aliases(model: &LocalModel) -> Vec<String> {
    model.spec.gateway.aliases.clone()
}

/// `Ready` decides; its message is written for people and goes to the client as it is.
fn availability(model: &LocalModel) -> Availability {
    if model.has_condition(ConditionType::Ready) {
        return Availability::Ready;
    }
    let ready = model.status.as_ref().and_then(|status| status.condition(ConditionType::Ready));
    let message = match ready {
        Some(ready) if !ready.message.is_empty() => format!("{} ({})", ready.message, ready.reason),
        Some(ready) => ready.reason.clone(),
        None => "the operator has not looked at it yet".into(),
    };
    Availability::Unavailable { message, retry_after: None }
}
