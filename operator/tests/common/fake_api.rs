//! A small API server in memory: enough of get, create, apply and delete for the scenarios, and a record of calls.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

/// The objects by path, and what was asked.
#[derive(Clone, Default)]
pub struct FakeApi {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    calls: Vec<String>,
    refusals: BTreeMap<String, String>,
}

impl FakeApi {
    pub fn client(&self) -> Client {
        let fake = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let fake = fake.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await?;
                Ok::<_, kube::Error>(fake.answer(&parts.method, parts.uri.path(), &body))
            }
        });
        Client::new(service, "default")
    }

    pub fn put(&self, path: &str, object: Value) {
        self.state.lock().unwrap().objects.insert(path.to_owned(), object);
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        self.state.lock().unwrap().objects.get(path).cloned()
    }

    pub fn remove(&self, path: &str) {
        self.state.lock().unwrap().objects.remove(path);
    }

    /// Answers every such call with 403 and this message.
    pub fn refuse(&self, call: &str, message: &str) {
        self.state.lock().unwrap().refusals.insert(call.to_owned(), message.to_owned());
    }

    /// What was written since the last time, as `METHOD kind/name`, without reads.
    pub fn take_writes(&self) -> Vec<String> {
        let calls = std::mem::take(&mut self.state.lock().unwrap().calls);
        calls.into_iter().filter(|call| !call.starts_with("GET ")).collect()
    }

    fn answer(&self, method: &Method, path: &str, body: &[u8]) -> Response<Body> {
        let mut state = self.state.lock().unwrap();
        let body: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let call = format!("{method} {}", short(path, &body));
        state.calls.push(call.clone());
        if let Some(message) = state.refusals.get(&call) {
            return refusal(StatusCode::FORBIDDEN, "Forbidden", message);
        }
        if method == Method::POST {
            return state.create(path, body);
        }
        if method == Method::PATCH {
            return state.apply(path, body);
        }
        if method == Method::PUT {
            return state.replace(path, body);
        }
        if method == Method::GET
            && let Some(list) = state.list(path)
        {
            return respond(StatusCode::OK, &list);
        }
        let Some(found) = state.objects.get(path).cloned() else {
            return refusal(StatusCode::NOT_FOUND, "NotFound", "not found");
        };
        if method == Method::DELETE {
            let leaving = state.objects.get_mut(path).unwrap();
            leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        respond(StatusCode::OK, &found)
    }
}

impl State {
    fn create(&mut self, path: &str, body: Value) -> Response<Body> {
        let name = body["metadata"]["name"].as_str().unwrap_or_default();
        let path = format!("{path}/{name}");
        if path.contains("/events/") {
            return respond(StatusCode::CREATED, &body);
        }
        if self.objects.contains_key(&path) {
            return refusal(StatusCode::CONFLICT, "AlreadyExists", "already exists");
        }
        self.objects.insert(path, body.clone());
        respond(StatusCode::CREATED, &body)
    }

    /// On the condition that it is as it was read.
    fn replace(&mut self, path: &str, mut body: Value) -> Response<Body> {
        let Some(found) = self.objects.get_mut(path) else {
            return refusal(StatusCode::NOT_FOUND, "NotFound", "not found");
        };
        let version = found["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned();
        if body["metadata"]["resourceVersion"].as_str().unwrap_or("0") != version {
            return refusal(StatusCode::CONFLICT, "Conflict", "the object has been modified");
        }
        body["metadata"]["resourceVersion"] = json!((version.parse::<u64>().unwrap() + 1).to_string());
        *found = body.clone();
        respond(StatusCode::OK, &body)
    }

    /// The objects of a kind, in all namespaces, if the path is that of a kind.
    fn list(&self, path: &str) -> Option<Value> {
        let (group, kind) = path.rsplit_once('/')?;
        let kinds =
            ["pods", "nodes", "localmodels", "nodeenvelopes", "leases", "persistentvolumes", "persistentvolumeclaims"];
        if !kinds.contains(&kind) {
            return None;
        }
        let is_its = |found: &&String| {
            let parts: Vec<&str> = found.strip_prefix(group).unwrap_or_default().split('/').collect();
            matches!(parts.as_slice(), ["", found, _] | ["", "namespaces", _, found, _] if *found == kind)
        };
        let items: Vec<&Value> =
            self.objects.iter().filter(|(path, _)| is_its(path)).map(|(_, object)| object).collect();
        Some(json!({ "apiVersion": "v1", "kind": "List", "metadata": {}, "items": items }))
    }

    /// Good enough for objects that only the operator writes: the body replaces what it names.
    fn apply(&mut self, path: &str, mut body: Value) -> Response<Body> {
        if let Some(object_path) = path.strip_suffix("/status") {
            let object = self.objects.get_mut(object_path).unwrap();
            object["status"] = body["status"].take();
            return respond(StatusCode::OK, object);
        }
        if body.get("webhooks").is_some() {
            return self.merge_webhooks(path, &body);
        }
        if body["kind"] == "Service" {
            body["spec"]["clusterIP"] = json!("10.96.0.7");
        }
        self.objects.insert(path.to_owned(), body.clone());
        respond(StatusCode::OK, &body)
    }
}

impl State {
    /// A strategic merge, as far as webhooks go: by name, and only what is named.
    fn merge_webhooks(&mut self, path: &str, body: &Value) -> Response<Body> {
        let found = self.objects.get_mut(path).unwrap();
        for change in body["webhooks"].as_array().unwrap() {
            let webhooks = found["webhooks"].as_array_mut().unwrap();
            let webhook = webhooks.iter_mut().find(|webhook| webhook["name"] == change["name"]).unwrap();
            for (name, value) in change["clientConfig"].as_object().unwrap() {
                webhook["clientConfig"][name] = value.clone();
            }
        }
        respond(StatusCode::OK, found)
    }
}

/// `/api/v1/namespaces/models/pods/smollm2-0` as `pods/smollm2-0`.
fn short(path: &str, body: &Value) -> String {
    let parts: Vec<_> = match path.split_once("/namespaces/") {
        Some((_, rest)) => rest.split('/').skip(1).collect(),
        None => path.rsplit('/').take(2).collect::<Vec<_>>().into_iter().rev().collect(),
    };
    match body["reason"].as_str() {
        Some(reason) if parts.first() == Some(&"events") => format!("events/{reason}"),
        _ => parts.join("/"),
    }
}

fn refusal(code: StatusCode, reason: &str, message: &str) -> Response<Body> {
    let status = json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "code": code.as_u16(), "reason": reason, "message": message,
    });
    respond(code, &status)
}

fn respond(code: StatusCode, body: &Value) -> Response<Body> {
    let bytes = Bytes::from(serde_json::to_vec(body).unwrap());
    Response::builder().status(code).body(Body::from(bytes.to_vec())).unwrap()
}
