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
use crate::backend::Backend;

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
    let endpoint = endpoint(model);
    let backend = endpoint.and_then(|endpoint| channels.get(endpoint));
    let availability = match (availability(model), endpoint, &backend) {
        (Availability::Ready, Some(endpoint), None) => {
            Availability::Unavailable { message: format!("its endpoint {endpoint:?} is no address"), retry_after: None }
        }
        (availability, ..) => availability,
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

/// Channels by endpoint, so that a change of anything but the endpoint keeps the connection.
#[derive(Default)]
struct Channels {
    open: HashMap<String, Backend>,
}

impl Channels {
    fn get(&mut self, endpoint: &str) -> Option<Backend> {
        if let Some(backend) = self.open.get(endpoint) {
            return Some(backend.clone());
        }
        let backend = Backend::at(endpoint).ok()?;
        self.open.insert(endpoint.to_owned(), backend.clone());
        Some(backend)
    }

    fn keep_only(&mut self, models: &[Arc<LocalModel>]) {
        self.open.retain(|open, _| models.iter().any(|model| endpoint(model) == Some(open)));
    }
}

fn endpoint(model: &LocalModel) -> Option<&str> {
    model.status.as_ref()?.endpoint.as_deref()
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
