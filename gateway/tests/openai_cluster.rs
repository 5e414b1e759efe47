//! Models found in a cluster: the API server is a fake behind real HTTP, with lists, watches and lost watches.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use futures::stream;
use kindling_gateway::{Cluster, Discovery};
use serde_json::{Value, json};
use tokio::sync::broadcast;

use crate::fake_runtime::{FakeRuntime, greet};
use crate::harness::{DEADLINE, Gateway, gateway_with, hello, merged};

/// What the API server holds.
#[derive(Clone)]
struct ApiServer {
    models: Arc<Mutex<Vec<Value>>>,
    events: broadcast::Sender<Option<Value>>,
}

impl ApiServer {
    async fn start(models: Vec<Value>) -> (Self, kube::Client) {
        let server = Self { models: Arc::new(Mutex::new(models)), events: broadcast::Sender::new(16) };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a loopback port should be free");
        let uri = format!("http://{}", listener.local_addr().expect("a listener should have an address"));
        let path = "/apis/kindling.dev/v1alpha1/localmodels";
        let router = axum::Router::new().route(path, axum::routing::get(serve)).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let config = kube::Config::new(uri.parse().expect("an address should be a URI"));
        (server, kube::Client::try_from(config).expect("a client should need no cluster"))
    }

    fn send(&self, kind: &str, object: Value) {
        self.events.send(Some(json!({"type": kind, "object": object}))).expect("somebody should watch");
    }

    /// Ends every watch with "too old", so that clients list again.
    fn lose_watches(&self) {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410, "reason": "Expired",
            "message": "too old resource version"});
        self.events.send(Some(json!({"type": "ERROR", "object": status}))).expect("somebody should watch");
        self.events.send(None).expect("somebody should watch");
    }

    async fn watched(&self) {
        let watched = async {
            while self.events.receiver_count() == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(DEADLINE, watched).await.expect("somebody should watch");
    }
}

async fn serve(State(server): State<ApiServer>, RawQuery(query): RawQuery) -> Response {
    if query.is_some_and(|query| query.contains("watch=true")) {
        let lines = stream::unfold(server.events.subscribe(), |mut events| async move {
            let event = events.recv().await.ok()??;
            Some((Ok::<_, Infallible>(format!("{event}\n")), events))
        });
        return Response::new(Body::from_stream(lines));
    }
    let items = server.models.lock().expect("no test should panic with the lock").clone();
    let list = json!({"kind": "LocalModelList", "apiVersion": "kindling.dev/v1alpha1",
        "metadata": {"resourceVersion": "1"}, "items": items});
    Response::new(Body::from(list.to_string()))
}

fn model(namespace: &str, name: &str, status: Value) -> Value {
    json!({
        "apiVersion": "kindling.dev/v1alpha1", "kind": "LocalModel",
        "metadata": {"name": name, "namespace": namespace, "resourceVersion": "2",
            "creationTimestamp": "2026-11-22T10:00:00Z"},
        "spec": {"source": {"hf": {"repo": "org/repo"}}, "gateway": {"aliases": [format!("{name}-alias")]}},
        "status": status
    })
}

fn condition(status: &str, reason: &str, message: &str) -> Value {
    json!({"type": "Ready", "status": status, "reason": reason, "message": message,
        "lastTransitionTime": "2026-11-22T10:00:00Z"})
}

fn ready(endpoint: SocketAddr) -> Value {
    json!({"endpoint": endpoint.to_string(), "conditions": [condition("True", "Serving", "")]})
}

fn loading() -> Value {
    json!({"conditions": [condition("False", "Downloading", "3 of 40 GiB are here")]})
}

async fn gateway_of(client: kube::Client) -> Gateway {
    gateway_with(greet, |config| config.discovery = Discovery::Cluster(Cluster { client, namespace: None })).await
}

/// Asks until the answer's status is this one; returns its error message, if any.
async fn until(gateway: &Gateway, name: &str, status: u16) -> String {
    let asked = async {
        loop {
            let answer = gateway.post("/v1/chat/completions", merged(hello(), json!({"model": name}))).await;
            if answer.status == status {
                return if status == 200 { String::new() } else { answer.error().0 };
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let answered = tokio::time::timeout(DEADLINE, asked).await;
    answered.unwrap_or_else(|_| panic!("{name} should become {status}"))
}

#[tokio::test]
async fn models_are_followed_through_their_lives() {
    let (first, second) = (FakeRuntime::new(greet), FakeRuntime::new(greet));
    let (one, two) = (first.listen().await, second.listen().await);
    let (server, client) = ApiServer::start(vec![model("a", "llama", ready(one)), model("b", "qwen", loading())]).await;
    let gateway = gateway_of(client).await;
    for name in ["llama", "a/llama", "llama-alias"] {
        until(&gateway, name, 200).await;
    }
    assert_eq!(gateway.get("/readyz").await.status, 200);
    assert_eq!(gateway.get("/v1/models/llama").await.json()["created"], 1_795_341_600);
    let message = until(&gateway, "qwen", 503).await;
    assert_eq!(message, "the model 'qwen' is not ready: 3 of 40 GiB are here (Downloading)");

    server.watched().await;
    server.send("MODIFIED", model("b", "qwen", ready(two)));
    until(&gateway, "qwen", 200).await;
    assert_eq!(second.requests.lock().unwrap().len(), 1);

    let before = first.requests.lock().unwrap().len();
    server.send("MODIFIED", model("a", "llama", ready(two)));
    let moved = async {
        while second.requests.lock().unwrap().len() < 2 {
            until(&gateway, "llama", 200).await;
        }
    };
    tokio::time::timeout(DEADLINE, moved).await.unwrap();
    assert!(first.requests.lock().unwrap().len() >= before);

    server.send("ADDED", model("b", "llama", ready(one)));
    let message = until(&gateway, "llama", 404).await;
    assert_eq!(message, "the model name 'llama' is ambiguous; use one of: a/llama, b/llama");
    until(&gateway, "b/llama", 200).await;

    server.send("DELETED", model("b", "llama", ready(one)));
    until(&gateway, "llama", 200).await;
    until(&gateway, "b/llama", 404).await;
}

#[tokio::test]
async fn copies_are_asked_themselves_and_only_those_that_serve() {
    let (first, second) = (FakeRuntime::new(greet), FakeRuntime::new(greet));
    let (one, two) = (first.listen().await, second.listen().await);
    let status = |is_second_ready: bool| {
        let copies = json!([
            {"address": one.to_string(), "ready": true, "reason": "Serving"},
            {"address": two.to_string(), "ready": is_second_ready, "reason": "Loading"},
        ]);
        // Nobody listens where the Service is.
        let ready = ready(([127, 0, 0, 1], 1).into());
        merged(ready, json!({ "copies": copies }))
    };
    let (server, client) = ApiServer::start(vec![model("a", "llama", status(false))]).await;
    let gateway = gateway_of(client).await;
    until(&gateway, "llama", 200).await;
    server.watched().await;
    let ask = async |number: u32| {
        let messages = json!([{"role": "user", "content": number.to_string()}]);
        gateway.post("/v1/chat/completions", merged(hello(), json!({"model": "llama", "messages": messages}))).await
    };
    for number in 0..20 {
        assert_eq!(ask(number).await.status, 200);
    }
    assert_eq!(second.requests.lock().unwrap().len(), 0);
    server.send("MODIFIED", model("a", "llama", status(true)));
    let shared = async {
        for number in 0.. {
            assert_eq!(ask(number).await.status, 200);
            if second.requests.lock().unwrap().len() > 2 {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, shared).await.expect("the second copy should be asked too");
}

#[tokio::test]
async fn a_lost_watch_loses_no_model_and_is_made_good() {
    let runtime = FakeRuntime::new(greet);
    let address = runtime.listen().await;
    let (server, client) = ApiServer::start(vec![model("a", "llama", ready(address))]).await;
    let gateway = gateway_of(client).await;
    until(&gateway, "llama", 200).await;
    server.watched().await;
    *server.models.lock().unwrap() = vec![model("a", "llama", ready(address)), model("a", "new", ready(address))];
    server.lose_watches();
    let answer = gateway.post("/v1/chat/completions", merged(hello(), json!({"model": "llama"}))).await;
    assert_eq!(answer.status, 200);
    until(&gateway, "new", 200).await;
}

#[tokio::test]
async fn nothing_is_unknown_while_the_api_server_is_away() {
    let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
    let gateway = gateway_of(kube::Client::try_from(config).unwrap()).await;
    assert_eq!(gateway.get("/readyz").await.status, 503);
    assert_eq!(gateway.get("/healthz").await.status, 200);
    let message = until(&gateway, "llama", 503).await;
    assert_eq!(message, "the list of models is still being read; try again");
}
