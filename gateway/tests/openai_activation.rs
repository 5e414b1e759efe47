//! A model that is loaded when a request comes: requests wait for it, and are told what they wait for.

use std::time::Duration;

use kindling_gateway::{Availability, OnDemand};
use serde_json::json;

use crate::fake_runtime::greet;
use crate::harness::{Gateway, gateway_with};

/// A gateway whose only model is not loaded, and whose requests are held for `hold`.
async fn unloaded(hold: Duration) -> Gateway {
    let gateway = gateway_with(greet, |config| {
        config.timeouts.hold = hold;
        config.timeouts.stream_open = Duration::from_millis(50);
        config.timeouts.keepalive = Duration::from_millis(50);
    })
    .await;
    gateway.routes.update(|routes| {
        let idle = "no request waits for it (Idle)".to_owned();
        routes[0].availability = Availability::Unavailable { message: idle, retry_after: None };
        routes[0].on_demand =
            Some(OnDemand { namespace: "demo".into(), name: "tiny".into(), uid: "1".into(), can_come: true });
    });
    gateway
}

/// The model is there after a moment.
fn load_soon(gateway: &Gateway) {
    let routes = gateway.routes.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        routes.update(|routes| routes[0].availability = Availability::Ready);
    });
}

#[tokio::test]
async fn a_request_is_held_until_the_model_is_loaded() {
    let gateway = unloaded(Duration::from_secs(30)).await;
    assert_eq!(gateway.get("/v1/models").await.json()["data"][0]["id"], "tiny", "clients may choose it");
    load_soon(&gateway);
    let answer = gateway.chat(json!({})).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
}

#[tokio::test]
async fn a_stream_gets_comment_lines_meanwhile_and_then_its_answer() {
    let gateway = unloaded(Duration::from_secs(30)).await;
    load_soon(&gateway);
    let answer = gateway.chat(json!({"stream": true})).await;
    assert_eq!(answer.status, 200);
    let first_data = answer.text.find("data: ").unwrap_or_default();
    assert!(answer.text[..first_data].contains(": keep-alive\n"), "{}", answer.text);
    assert!(answer.text.ends_with("data: [DONE]\n\n"), "{}", answer.text);
}

#[tokio::test]
async fn a_request_that_was_held_for_as_long_as_it_may_is_told_when_to_try_again() {
    let gateway = unloaded(Duration::from_millis(100)).await;
    let answer = gateway.chat(json!({})).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("retry-after"), Some("2"));
    assert!(answer.text.contains("no request waits for it (Idle)"), "{}", answer.text);
}

#[tokio::test]
async fn what_cannot_come_is_refused_at_once_and_not_listed() {
    let gateway = unloaded(Duration::from_secs(30)).await;
    gateway.routes.update(|routes| {
        routes[0].on_demand.as_mut().expect("it is on demand").can_come = false;
    });
    assert_eq!(gateway.get("/v1/models").await.json()["data"], json!([]));
    assert_eq!(gateway.chat(json!({})).await.status, 503);
}
