//! The API server by plain requests: JSON in and out, and no types shared with what is tested.

use std::path::Path;

use futures::Stream;
use http::{Method, Request};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::WatchEvent;
use kube::{Client, Config};
use serde_json::{Value, json};

/// A client with an administrator's rights.
#[derive(Clone)]
pub struct Api {
    client: Client,
}

type Answer = Result<Value, kube::Error>;

impl Api {
    pub async fn connect(kubeconfig: &Path) -> Self {
        let read = Kubeconfig::read_from(kubeconfig).expect("the kubeconfig");
        let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.expect("a cluster");
        Self { client: Client::try_from(config).expect("a client") }
    }

    /// The object or list; nothing if there is none.
    pub async fn get(&self, path: &str) -> Option<Value> {
        self.send(Method::GET, path, "application/json", &Value::Null).await.ok()
    }

    pub async fn create(&self, path: &str, object: &Value) -> Answer {
        self.send(Method::POST, path, "application/json", object).await
    }

    pub async fn merge(&self, path: &str, patch: &Value) -> Answer {
        self.send(Method::PATCH, path, "application/merge-patch+json", patch).await
    }

    /// Server-side apply, by force.
    pub async fn apply(&self, path: &str, manager: &str, object: &Value) -> Answer {
        let path = format!("{path}?fieldManager={manager}&force=true");
        self.send(Method::PATCH, &path, "application/apply-patch+yaml", object).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, "application/json", &json!({})).await
    }

    /// Deletes a pod of this uid at once, as its kubelet does when its containers have ended.
    pub async fn finalise(&self, path: &str, uid: &str) -> Answer {
        let options = json!({ "gracePeriodSeconds": 0, "preconditions": { "uid": uid } });
        self.send(Method::DELETE, path, "application/json", &options).await
    }

    pub async fn watch(
        &self,
        path: &str,
        from: &str,
    ) -> Result<impl Stream<Item = Result<WatchEvent<Value>, kube::Error>> + use<>, kube::Error> {
        let path = format!("{path}?watch=1&resourceVersion={from}&allowWatchBookmarks=true&timeoutSeconds=240");
        let request = Request::get(path).body(Vec::new()).expect("a request");
        self.client.request_events::<Value>(request).await
    }

    async fn send(&self, method: Method, path: &str, kind: &str, body: &Value) -> Answer {
        let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(body).expect("JSON") };
        let request = Request::builder().method(method).uri(path).header("content-type", kind).body(body);
        self.client.request(request.expect("a request")).await
    }
}

/// Whether the object is gone, or another of its name is there: no failure of who is late.
pub fn is_too_late(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_not_found() || status.is_conflict())
}

/// For `metadata.creationTimestamp` and pods' conditions: whole seconds, as the kubelet writes them.
pub fn now_in_seconds() -> String {
    format!("{:.0}", jiff::Timestamp::from_second(jiff::Timestamp::now().as_second()).expect("a time"))
}

/// With microseconds.
pub fn micros(at: jiff::Timestamp) -> String {
    format!("{at:.6}")
}
