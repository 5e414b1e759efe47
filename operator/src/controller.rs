//! The story of one LocalModel: dereference, validate, build, apply, observe, status.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Pod, Service, ServiceAccount};
use k8s_openapi::jiff::Timestamp;
use kindling_api::{LocalModel, MANAGER};
use kube::api::Api;
use kube::runtime::controller::{self as kube_controller, Action, Controller};
use kube::runtime::events::Recorder;
use kube::runtime::reflector::Store;
use kube::runtime::watcher;
use kube::{Client, ResourceExt};
use tokio_util::sync::CancellationToken;

use crate::apply::{ApplyError, apply};
use crate::build::build;
use crate::config::OperatorConfig;
use crate::dereference::{DereferenceError, dereference};
use crate::metrics::Metrics;
use crate::observe::{Elsewhere, Observed, Situation, is_serving, observe};
use crate::placement::Placement;
use crate::runtime_info::RuntimeInfo;
use crate::validate::{ValidateError, validate};
use crate::{events, status};

/// How often a runtime that loads is asked how far it is.
const POLL: Duration = Duration::from_secs(1);
/// How soon a failed read or write is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How soon a refused spec is looked at again: what stood in its way may have gone without anyone telling.
const RECHECK: Duration = Duration::from_secs(60);

/// What every reconcile needs.
pub struct Context {
    /// The cluster.
    pub client: Client,
    /// What the operator was told at its start.
    pub config: OperatorConfig,
    /// Decides who has memory where, and makes the pods.
    pub placement: Arc<Placement>,
    /// Answers for the runtimes.
    pub runtime: Arc<dyn RuntimeInfo>,
    /// Publishes events.
    pub recorder: Recorder,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

/// A reconcile failed, by the step that did.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Step 1.
    #[error("reading the cluster")]
    Dereference(#[source] DereferenceError),
    /// Step 2: the spec is refused.
    #[error("refusing the spec")]
    Validate {
        /// Why.
        #[source]
        source: ValidateError,
        /// Whether an earlier spec's pod answers requests and goes on doing so.
        is_serving: bool,
    },
    /// Step 4.
    #[error("writing to the cluster")]
    Apply(#[source] ApplyError),
    /// Step 6.
    #[error("writing the status")]
    PatchStatus(#[source] kube::Error),
}

/// Brings the cluster to what one LocalModel asks for. Called again after every change; keeps no memory between calls.
///
/// # Errors
/// The step that failed; the status says it too, unless writing the status is what failed.
pub async fn reconcile(object: Arc<LocalModel>, cx: Arc<Context>) -> Result<Action, Error> {
    cx.placement.wake();
    if object.metadata.deletion_timestamp.is_some() {
        // its children go with it, by their owner references
        return Ok(Action::await_change());
    }
    let _timer = cx.metrics.start_reconcile();
    let outcome = converge(&object, &cx).await; // steps 1 to 5
    let status = status::compute(&object, &outcome, Timestamp::now()); // pure: errors become conditions too
    status::patch(&cx.client, &object, &status).await.map_err(Error::PatchStatus)?;
    events::publish(&cx.recorder, &object, &status).await;
    outcome.map(|observed| next_look(&observed, status::has_facts_in(&status)))
}

async fn converge(object: &LocalModel, cx: &Context) -> Result<Observed, Error> {
    let references = dereference(&cx.client, object).await.map_err(Error::Dereference)?; // reads
    let validated = validate(object, &references, &cx.config); // pure
    let uid = object.uid().unwrap_or_default();
    cx.placement.set_refused(&uid, validated.is_err());
    let model = validated.map_err(|source| Error::Validate { source, is_serving: is_serving(&references) })?;
    let desired = build(&model); // pure, cannot fail
    let service = apply(&cx.client, object, &references, desired).await.map_err(Error::Apply)?; // writes
    let known = cx.placement.known_of(&uid);
    let outcomes = (0..).zip(&references.pods).map(|(copy, _)| cx.placement.outcome(&uid, copy)).collect();
    let elsewhere = Elsewhere { outcomes, known };
    let seen = (object, &references, service.as_ref());
    Ok(observe(seen, elsewhere, cx.runtime.as_ref(), status::has_facts(object)).await) // reads
}

/// When to look again if nothing changes: the kubelet reports the pod, the placement what it decides; only the runtime
/// must be asked.
fn next_look(observed: &Observed, has_facts: bool) -> Action {
    let waits = observed.copies().filter_map(|copy| match &copy.situation {
        Situation::Started { is_ready: false } | Situation::Replacing => Some(POLL),
        Situation::Started { is_ready: true } if !has_facts => Some(RETRY),
        Situation::Unplaced if copy.outcome.is_none() => Some(POLL),
        _ => None,
    });
    waits.min().map_or_else(Action::await_change, Action::requeue)
}

fn on_error(object: Arc<LocalModel>, error: &Error, cx: Arc<Context>) -> Action {
    let category = error.category();
    cx.metrics.count_failure(category);
    let (name, namespace) = (object.name_any(), object.namespace().unwrap_or_default());
    tracing::warn!(namespace, name, category, error = error.with_sources(), "reconcile failed");
    Action::requeue(if matches!(error, Error::Validate { .. }) { RECHECK } else { RETRY })
}

/// The controller, and the store of LocalModels that it keeps.
pub fn controller(client: &Client, namespace: Option<&str>) -> (Controller<LocalModel>, Store<LocalModel>) {
    let ours = || watcher::Config::default().labels(&format!("app.kubernetes.io/managed-by={MANAGER}"));
    let controller = Controller::new(scoped::<LocalModel>(client, namespace), watcher::Config::default())
        .owns(scoped::<Pod>(client, namespace), ours())
        .owns(scoped::<Service>(client, namespace), ours())
        .owns(scoped::<ServiceAccount>(client, namespace), ours());
    let store = controller.store();
    (controller, store)
}

/// Reconciles until the token is cancelled; then ends what is under way. All models are looked at
/// whenever `placed` says that something was decided.
pub async fn run(
    controller: Controller<LocalModel>,
    cx: Arc<Context>,
    placed: impl futures::Stream<Item = ()> + Send + Sync + 'static,
    shutdown: CancellationToken,
) {
    let controller = controller.reconcile_all_on(placed);
    let reconciles = controller.graceful_shutdown_on(shutdown.cancelled_owned()).run(reconcile, on_error, cx);
    reconciles
        .for_each(async |result| {
            match result {
                // told by on_error
                Ok(_) | Err(kube_controller::Error::ReconcilerFailed(..)) => {}
                // a child's last event after its LocalModel is gone: nothing is wrong
                Err(error @ kube_controller::Error::ObjectNotFound(_)) => tracing::debug!(%error, "watching"),
                Err(error) => tracing::warn!(%error, "watching fails; are the CRD and the operator's role installed?"),
            }
        })
        .await;
}

fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

impl Error {
    /// The label of the metric.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Dereference(_) => "dereference",
            Self::Validate { .. } => "validate",
            Self::Apply(_) => "apply",
            Self::PatchStatus(_) => "patch_status",
        }
    }

    /// The error and what caused it, in one line.
    pub fn with_sources(&self) -> String {
        let mut text = self.to_string();
        let mut source = self.source();
        while let Some(error) = source {
            // kube's API errors repeat their whole Status; its message is what a person wants
            let step = match error.downcast_ref::<kube::Error>() {
                Some(kube::Error::Api(status)) => status.message.clone(),
                _ => error.to_string(),
            };
            text = format!("{text}: {step}");
            source = error.source().filter(|_| !error.is::<kube::Error>());
        }
        text
    }
}
