//! Who calls: the cluster says whose a token is, and this says what they may ask for.

use futures::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo};
use k8s_openapi::api::core::v1::Pod;
use kindling_api::{AGENT_AUDIENCE, MODEL_LABEL};
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::grants::ModelPod;

/// Questions to the cluster at once: whoever floods the agent with tokens floods nobody else.
const MAX_REVIEWS: usize = 8;
/// A token of a service account is a few hundred bytes; longer ones are not passed on.
const MAX_TOKEN_BYTES: usize = 16 << 10;

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// What the gate asks the cluster; tests put a fake here.
pub trait Cluster: Send + Sync {
    /// Whose a token is.
    fn review<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<TokenReviewStatus, kube::Error>>;
    /// A pod, if it is there.
    fn pod<'a>(&'a self, namespace: &'a str, name: &'a str) -> BoxFuture<'a, Result<Option<Pod>, kube::Error>>;
}

/// Asks the API server.
pub struct ApiServer(pub Client);

impl Cluster for ApiServer {
    fn review<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<TokenReviewStatus, kube::Error>> {
        let spec = TokenReviewSpec { audiences: Some(vec![AGENT_AUDIENCE.to_owned()]), token: Some(token.to_owned()) };
        Box::pin(async move {
            let review = TokenReview { spec, ..TokenReview::default() };
            let reviewed = Api::<TokenReview>::all(self.0.clone()).create(&PostParams::default(), &review).await?;
            Ok(reviewed.status.unwrap_or_default())
        })
    }

    fn pod<'a>(&'a self, namespace: &'a str, name: &'a str) -> BoxFuture<'a, Result<Option<Pod>, kube::Error>> {
        Box::pin(async move { Api::<Pod>::namespaced(self.0.clone(), namespace).get_opt(name).await })
    }
}

/// Lets callers through, or tells them why not.
pub struct Gate {
    cluster: Arc<dyn Cluster>,
    node: String,
    operator_account: String,
    reviews: Semaphore,
}

impl Gate {
    /// A gate on this node; the operator's account is `system:serviceaccount:NAMESPACE:NAME`.
    pub fn new(cluster: Arc<dyn Cluster>, node: &str, operator_account: &str) -> Self {
        let (node, operator_account) = (node.to_owned(), operator_account.to_owned());
        Self { cluster, node, operator_account, reviews: Semaphore::new(MAX_REVIEWS) }
    }

    /// Lets the operator through.
    ///
    /// # Errors
    /// `UNAUTHENTICATED`, `PERMISSION_DENIED`, or `UNAVAILABLE` if the cluster can't be asked.
    pub async fn operator(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let user = self.user(metadata).await?;
        match user.username.as_deref() {
            Some(name) if name == self.operator_account => Ok(()),
            name => Err(Status::permission_denied(format!("{} is not the operator", name.unwrap_or("nobody")))),
        }
    }

    /// Lets a model's pod of this node through, and says whose it is.
    ///
    /// # Errors
    /// As [`Gate::operator`].
    pub async fn model_pod(&self, metadata: &MetadataMap) -> Result<ModelPod, Status> {
        let user = self.user(metadata).await?;
        let extra = |key| user.extra.as_ref()?.get(key)?.first().cloned();
        let name = user.username.as_deref().unwrap_or_default();
        let account = name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
        let (Some((namespace, _)), Some(pod_name), Some(uid)) = (account, extra(POD_NAME), extra(POD_UID)) else {
            return Err(Status::permission_denied(format!("the token of {name} is not that of a pod")));
        };
        let elsewhere = || Status::permission_denied(format!("pod {namespace}/{pod_name} is not on {}", self.node));
        if extra(NODE_NAME).is_some_and(|node| node != self.node) {
            return Err(elsewhere());
        }
        let found = self.cluster.pod(namespace, &pod_name).await.map_err(|error| unasked(&error))?;
        let pod = found.filter(|pod| pod.uid().as_deref() == Some(&*uid)).ok_or_else(|| {
            Status::permission_denied(format!("there is no pod {namespace}/{pod_name} with the token's uid"))
        })?;
        if pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) != Some(&*self.node) {
            return Err(elsewhere());
        }
        model_of(&pod, namespace, uid)
            .ok_or_else(|| Status::permission_denied(format!("pod {namespace}/{pod_name} belongs to no LocalModel")))
    }

    async fn user(&self, metadata: &MetadataMap) -> Result<UserInfo, Status> {
        let header = metadata.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let token = header.strip_prefix("Bearer ").map(str::trim).filter(|token| !token.is_empty());
        let token = token.filter(|token| token.len() <= MAX_TOKEN_BYTES);
        let token = token.ok_or_else(|| Status::unauthenticated("`authorization: Bearer TOKEN` is needed"))?;
        let _permit = self.reviews.acquire().await.map_err(|_| Status::unavailable("the agent ends"))?;
        let status = self.cluster.review(token).await.map_err(|error| unasked(&error))?;
        let is_for_us = status.audiences.iter().flatten().any(|audience| audience == AGENT_AUDIENCE);
        match status.user {
            Some(user) if status.authenticated == Some(true) && is_for_us => Ok(user),
            _ => Err(Status::unauthenticated(format!("the cluster knows no such token for {AGENT_AUDIENCE}"))),
        }
    }
}

/// By its owner; else by its label, for pods that somebody made by hand.
fn model_of(pod: &Pod, namespace: &str, uid: String) -> Option<ModelPod> {
    let owner = pod.owner_references().iter().find(|owner| owner.kind == "LocalModel");
    let (name, model_uid) = match owner {
        Some(owner) => (owner.name.clone(), Some(owner.uid.clone())),
        None => (pod.labels().get(MODEL_LABEL)?.clone(), None),
    };
    Some(ModelPod { uid, model: format!("{namespace}/{name}"), model_uid })
}

fn unasked(error: &kube::Error) -> Status {
    tracing::warn!(%error, "the cluster can't be asked who calls");
    Status::unavailable("the cluster can't be asked who calls; try again")
}
