//! Names, lists of models, and the endpoints around them.

use kindling_gateway::StaticRoutes;
use serde_json::json;

use crate::fake_runtime::{MAX_MODEL_LEN, greet};
use crate::harness::{gateway, gateway_with};

#[tokio::test]
async fn models_are_listed_with_their_context() {
    let gateway = gateway(greet).await;
    let entry = |id: &str| {
        json!({
            "id": id, "object": "model", "created": 1_700_000_000, "owned_by": "demo", "root": "tiny",
            "max_model_len": MAX_MODEL_LEN, "context_length": MAX_MODEL_LEN
        })
    };
    let body = gateway.get("/v1/models").await.json();
    assert_eq!(body, json!({"object": "list", "data": [entry("tiny"), entry("gpt-4")]}));
    for (path, id) in [("tiny", "tiny"), ("gpt-4", "gpt-4"), ("demo/tiny", "demo/tiny"), ("demo%2Ftiny", "demo/tiny")] {
        let answer = gateway.get(&format!("/v1/models/{path}")).await;
        assert_eq!(answer.json(), entry(id));
        assert_eq!(answer.header("kindling-model"), Some("demo/tiny"));
    }
    assert_eq!(gateway.get("/v1/models/nobody").await.error().3.as_deref(), Some("model_not_found"));
}

#[tokio::test]
async fn every_name_of_a_model_answers_and_is_repeated() {
    let gateway = gateway(greet).await;
    for name in ["tiny", "demo/tiny", "gpt-4"] {
        let answer = gateway.chat(json!({"model": name})).await;
        assert_eq!(answer.json()["model"], name);
        assert_eq!(answer.header("kindling-model"), Some("demo/tiny"));
    }
}

#[tokio::test]
async fn an_ambiguous_name_says_what_to_use() {
    let gateway = gateway(greet).await;
    gateway.routes.update(|routes| {
        let mut other = routes[0].clone();
        other.namespace = Some("prod".into());
        routes.push(other);
    });
    let answer = gateway.chat(json!({"model": "tiny"})).await;
    assert_eq!(answer.status, 404);
    assert_eq!(answer.error().0, "the model name 'tiny' is ambiguous; use one of: demo/tiny, prod/tiny");
    assert_eq!(gateway.chat(json!({"model": "prod/tiny"})).await.status, 200);
    let body = gateway.get("/v1/models").await.json();
    let ids: Vec<_> = body["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["demo/tiny", "prod/tiny"]);
}

#[tokio::test]
async fn health_and_version_answer() {
    let gateway = gateway(greet).await;
    for path in ["/healthz", "/readyz", "/health"] {
        assert_eq!(gateway.get(path).await.json(), json!({"status": "ok"}), "{path}");
    }
    assert_eq!(gateway.get("/version").await.json(), json!({"version": env!("CARGO_PKG_VERSION")}));
}

#[tokio::test]
async fn metrics_can_have_a_port_of_their_own() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let gateway = gateway_with(greet, |config| config.metrics_listen = Some(address)).await;
    assert_eq!(gateway.chat(json!({})).await.status, 200);
    assert_eq!(gateway.get("/metrics").await.status, 404);
    let text = gateway.http.get(format!("http://{address}/metrics")).send().await.unwrap().text().await.unwrap();
    assert!(text.contains("kindling_gateway_requests_total"), "{text}");
}

#[tokio::test]
async fn a_gateway_without_models_says_so() {
    let gateway = gateway_with(greet, |config| {
        config.discovery = kindling_gateway::Discovery::Static(StaticRoutes::new(Vec::new()));
    })
    .await;
    assert_eq!(gateway.get("/readyz").await.status, 200);
    assert_eq!(gateway.get("/v1/models").await.json()["data"], json!([]));
    assert_eq!(gateway.chat(json!({})).await.error().0, "the model 'tiny' does not exist; no model is ready");
}
