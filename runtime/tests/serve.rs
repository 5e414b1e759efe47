//! `serve` on real sockets: it answers, drains and ends, or ends with a reason.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic and print")]

mod common;

use std::time::Duration;

use common::{DEADLINE, generate, text_request, tiny_model};
use kindling_proto::v1::inference_client::InferenceClient;
use kindling_runtime::{BackendKind, Listeners, RuntimeConfig, error_chain, serve};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

async fn listeners() -> Listeners {
    let grpc = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let metrics = Some(TcpListener::bind("127.0.0.1:0").await.unwrap());
    Listeners { grpc, metrics }
}

#[tokio::test]
async fn serves_until_told_to_end() {
    let folder = tiny_model();
    let listeners = listeners().await;
    let grpc_address = listeners.grpc.local_addr().unwrap();
    let metrics_address = listeners.metrics.as_ref().unwrap().local_addr().unwrap();
    let config = RuntimeConfig { backend: BackendKind::Cpu, ..RuntimeConfig::new(&folder.0) };
    let shutdown = CancellationToken::new();
    let server = tokio::spawn(serve(config, listeners, shutdown.clone()));
    let client = InferenceClient::connect(format!("http://{grpc_address}")).await.unwrap();
    let started = std::time::Instant::now();
    let answer = loop {
        match generate(&client, text_request("hello", 8)).await {
            Ok(answer) => break answer,
            Err(status) => assert_eq!(status.code(), tonic::Code::Unavailable, "{status}"),
        }
        assert!(started.elapsed() < DEADLINE);
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(answer.tokens(0).len(), 8);

    let mut stream = TcpStream::connect(metrics_address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: runtime\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert!(text.contains("\nkindling_runtime_generation_tokens_total 8\n"), "{text}");
    assert!(text.contains("\nkindling_runtime_memory_bytes{kind=\"weights\"}"), "{text}");

    shutdown.cancel();
    tokio::time::timeout(DEADLINE, server).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_model_that_cannot_be_loaded_ends_the_server_with_the_reason() {
    let folder = tiny_model();
    let tensors = folder.0.join("model.safetensors");
    let half = std::fs::metadata(&tensors).unwrap().len() / 2;
    std::fs::OpenOptions::new().write(true).open(&tensors).unwrap().set_len(half).unwrap();
    let served = serve(RuntimeConfig::new(&folder.0), listeners().await, CancellationToken::new());
    let error = tokio::time::timeout(DEADLINE, served).await.unwrap().unwrap_err();
    let text = error_chain(&error);
    assert!(text.starts_with("serve the model: load the model: open "), "{text}");
    assert!(text.contains("model.safetensors"), "{text}");
}
