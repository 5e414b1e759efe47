//! A client that leaves takes its request with it.

use kindling_proto::v1::FinishReason;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::fake_runtime::{Step, content, finish, greet, prompt};
use crate::harness::{Gateway, gateway, gateway_with, hello, http_client, merged};

const GONE: &str = r#"kindling_gateway_client_disconnects_total{model="demo/tiny",route="chat_completions"} 1"#;

/// Sends a chat request by hand, reads until `seen` has come, and leaves.
async fn leave(gateway: &Gateway, extra: serde_json::Value, seen: &str) {
    let body = merged(hello(), extra).to_string();
    let address = gateway.url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.expect("the gateway should listen");
    let request =
        format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.expect("the gateway should read");
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.contains(seen) {
        let num_bytes = stream.read(&mut buffer).await.expect("the gateway should write");
        text.push_str(&String::from_utf8_lossy(&buffer[..num_bytes]));
    }
    let asked = async {
        while gateway.runtime.requests.lock().expect("no test should panic with the lock").is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::harness::DEADLINE, asked).await.expect("the runtime should be asked");
}

#[tokio::test]
async fn leaving_a_stream_aborts_it() {
    let gateway = gateway(|_: &_| vec![prompt(3), content(0, "one"), Step::Hang]).await;
    leave(&gateway, json!({"stream": true}), "one").await;
    gateway.aborted(1).await;
    gateway.metric(GONE).await;
    gateway.metric(r#"kindling_gateway_requests_in_flight{route="chat_completions"} 0"#).await;
    gateway.metric(r#"kindling_gateway_generation_tokens_total{model="demo/tiny"} 1"#).await;
}

#[tokio::test]
async fn leaving_before_the_answer_aborts_it() {
    let gateway = gateway(|_: &_| vec![prompt(3), content(0, "one"), Step::Hang]).await;
    leave(&gateway, json!({}), "").await;
    gateway.aborted(1).await;
    gateway.metric(GONE).await;
    gateway.metric(r#"kindling_gateway_requests_total{code="499",model="demo/tiny",route="chat_completions"} 1"#).await;
}

#[tokio::test]
async fn leaving_before_the_runtime_answers_the_call_aborts_it() {
    for stream in [false, true] {
        let gateway = gateway(|_: &_| vec![Step::Ignore]).await;
        leave(&gateway, json!({"stream": stream}), "").await;
        gateway.aborted(1).await;
    }
}

#[tokio::test]
async fn leaving_aborts_every_prompt() {
    let gateway = gateway(|_: &_| vec![prompt(3), Step::Hang]).await;
    let request = gateway.complete(json!({"prompt": ["a", "b", "c"]}));
    let left = tokio::time::timeout(std::time::Duration::from_millis(500), request).await;
    assert!(left.is_err());
    gateway.aborted(3).await;
}

#[tokio::test]
async fn a_client_that_stops_reading_is_taken_for_gone() {
    let endless = |_: &_| {
        let text = "much ".repeat(4000);
        std::iter::once(prompt(3)).chain(std::iter::repeat_n(content(0, &text), 2000)).chain([Step::Hang]).collect()
    };
    let patience = std::time::Duration::from_millis(100);
    let gateway = gateway_with(endless, |config| config.timeouts.write_stall = patience).await;
    let response = gateway.http.post(format!("{}/v1/chat/completions", gateway.url));
    let response = response.body(merged(hello(), json!({"stream": true})).to_string()).send().await.unwrap();
    gateway.aborted(1).await;
    drop(response);
    gateway.metric(GONE).await;
}

#[tokio::test]
async fn a_shutdown_waits_for_running_requests_and_takes_no_new_ones() {
    let slow = |_: &_| {
        let pause = Step::Wait(std::time::Duration::from_millis(300));
        vec![prompt(3), content(0, "one"), pause, content(0, "two"), finish(0, FinishReason::Stop, 2)]
    };
    let gateway = gateway_with(slow, |config| config.timeouts.drain = crate::harness::DEADLINE).await;
    let url = format!("{}/v1/chat/completions", gateway.url);
    let body = merged(hello(), json!({"stream": true})).to_string();
    let response = gateway.http.post(&url).body(body).send().await.unwrap();
    gateway.stop.send(()).unwrap();
    let text = response.text().await.unwrap();
    assert!(text.contains("two") && text.ends_with("data: [DONE]\n\n"), "{text}");
    assert!(http_client().get(&gateway.url).send().await.is_err());
}

#[tokio::test]
async fn who_is_not_done_when_the_drain_time_is_up_is_told_so() {
    for stream in [true, false] {
        let gateway = gateway(|_: &_| vec![prompt(3), content(0, "one"), Step::Hang]).await;
        let request = gateway.http.post(format!("{}/v1/chat/completions", gateway.url));
        let sent = tokio::spawn(request.body(merged(hello(), json!({"stream": stream})).to_string()).send());
        while gateway.runtime.requests.lock().expect("no test should panic with the lock").is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        gateway.stop.send(()).expect("the gateway should run");
        let response = sent.await.unwrap().expect("the gateway should answer");
        assert_eq!(response.status(), if stream { 200 } else { 503 });
        let text = response.text().await.expect("the answer should be complete");
        assert!(text.contains("the gateway is shutting down; try again"), "{text}");
        assert!(text.contains("model_unavailable"), "{text}");
    }
}

#[tokio::test]
async fn a_complete_stream_is_no_hang_up() {
    let gateway = gateway(greet).await;
    for stream in [true, false] {
        gateway.chat(json!({"stream": stream})).await;
    }
    gateway.metric(r#"kindling_gateway_requests_total{code="200",model="demo/tiny",route="chat_completions"} 2"#).await;
    assert_eq!(*gateway.runtime.aborted.borrow(), 0);
    assert!(!gateway.get("/metrics").await.text.contains("client_disconnects_total{model"));
}
