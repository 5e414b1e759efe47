//! Says on the cluster that a model is in use: one Lease for each, which goes with its LocalModel.

use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kindling_api::{LocalModel, MODEL_LABEL, use_lease_name};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource};

use super::OnDemand;
use crate::activation::UseWriter;

const MANAGER: &str = "kindling-gateway";
/// One write; the next renewal is the next try.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Writes Leases.
pub struct Leases {
    client: Client,
}

impl Leases {
    /// On this cluster.
    pub fn new(client: Client) -> Self {
        Self { client }
    }
}

impl UseWriter for Leases {
    fn write(&self, model: OnDemand, age: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let api = Api::<Lease>::namespaced(self.client.clone(), &model.namespace);
            let (name, lease) = lease(&model, age);
            let params = PatchParams::apply(MANAGER).force();
            match tokio::time::timeout(TIMEOUT, api.patch(&name, &params, &Patch::Apply(&lease))).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::warn!(%error, lease = name, "saying that a model is in use failed"),
                Err(_) => tracing::warn!(lease = name, "saying that a model is in use took too long"),
            }
        })
    }
}

fn lease(model: &OnDemand, age: Duration) -> (String, serde_json::Value) {
    let now = Timestamp::now();
    let since = now.checked_sub(age).unwrap_or(now);
    let name = use_lease_name(&model.name);
    let micros = |at: Timestamp| format!("{at:.6}");
    let lease = serde_json::json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": name,
            "labels": { MODEL_LABEL: model.name, "app.kubernetes.io/managed-by": MANAGER },
            "ownerReferences": [{
                "apiVersion": LocalModel::api_version(&()), "kind": LocalModel::kind(&()),
                "name": model.name, "uid": model.uid,
            }],
        },
        "spec": { "holderIdentity": MANAGER, "acquireTime": micros(since), "renewTime": micros(now) },
    });
    (name, lease)
}
