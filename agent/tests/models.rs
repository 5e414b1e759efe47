//! `DescribeModel` and `EnsureModel` as the operator sees them.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Node, with_token};
use kindling_proto::v1::ensure_model_response::State;
use kindling_proto::v1::model_source::Source;
use kindling_proto::v1::{DescribeModelRequest, EnsureModelRequest, HubModel, ModelSource};
use tonic::Code;

fn path(path: impl Into<String>) -> Option<ModelSource> {
    Some(ModelSource { source: Some(Source::HostPath(path.into())) })
}

#[tokio::test]
async fn a_path_of_the_node_is_there_or_is_not() {
    let node = Node::start("path").await;
    let ensure = |source| with_token(EnsureModelRequest { source, look_only: false }, "operator");
    let tiny = node.folder.join("models/tiny");
    std::fs::write(tiny.join("model.gguf"), b"GGUF").unwrap();
    let present = node.client().ensure_model(ensure(path(tiny.display().to_string()))).await.unwrap().into_inner();
    assert_eq!((present.state(), present.bytes), (State::Present, 4));
    let absent = node.client().ensure_model(ensure(path(tiny.join("absent").display().to_string()))).await;
    assert_eq!(absent.unwrap_err().code(), Code::NotFound);
    let outside = node.client().ensure_model(ensure(path("/etc"))).await;
    assert_eq!(outside.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_hub_that_cannot_be_reached_is_a_failure_with_a_reason() {
    let node = Node::start("hub").await;
    let hub = HubModel { repo: "org/model".to_owned(), revision: "main".to_owned(), files: Vec::new() };
    let source = Some(ModelSource { source: Some(Source::Hub(hub)) });
    for _ in 0..200 {
        let request = with_token(EnsureModelRequest { source: source.clone(), look_only: false }, "operator");
        let response = node.client().ensure_model(request).await.unwrap().into_inner();
        if response.state() == State::Failed {
            assert!(response.message.contains("cannot reach http://127.0.0.1:9"), "{}", response.message);
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("it never failed");
}

#[tokio::test]
async fn facts_come_from_whoever_reads_them_and_only_the_operator_gets_them() {
    let node = Node::start("facts").await;
    let tiny = node.folder.join("models/tiny").canonicalize().unwrap();
    let request = || DescribeModelRequest { source: path(tiny.display().to_string()), serving: None };
    let answer = node.client().describe_model(with_token(request(), "operator")).await.unwrap().into_inner();
    assert_eq!(answer.architecture, format!("Path({tiny:?})"));
    for (token, code) in [
        ("pod:a", Code::PermissionDenied),
        ("person", Code::PermissionDenied),
        ("other-audience", Code::Unauthenticated),
        ("nobody", Code::Unauthenticated),
    ] {
        let refused = node.client().describe_model(with_token(request(), token)).await.unwrap_err();
        assert_eq!(refused.code(), code, "{token}");
        let refused =
            node.client().ensure_model(with_token(EnsureModelRequest { source: None, look_only: false }, token)).await;
        assert_eq!(refused.unwrap_err().code(), code, "{token}");
    }
}
