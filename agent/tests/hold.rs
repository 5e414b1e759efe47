//! `Hold` as a runtime sees it: real gRPC on loopback, a node whose memory the test writes.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::time::Duration;

use common::{Node, reservation, with_token};
use kindling_agent::daemon::desk::Ledger;
use kindling_api::{Pressure, ReservationState};
use kindling_envelope::Bytes;
use kindling_proto::v1::hold_response::Message;
use kindling_proto::v1::{Ask, HoldRequest, HoldResponse, Measured, hold_request};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

/// A runtime's end of a stream.
struct Runtime {
    sender: mpsc::Sender<HoldRequest>,
    answers: Streaming<HoldResponse>,
}

impl Runtime {
    async fn open(node: &Node, token: &str, first: hold_request::Message) -> Result<Self, Status> {
        let (sender, receiver) = mpsc::channel(4);
        sender.send(HoldRequest { message: Some(first) }).await.unwrap();
        let answers = node.client().hold(with_token(ReceiverStream::new(receiver), token)).await?.into_inner();
        Ok(Self { sender, answers })
    }

    async fn asking(node: &Node, name: &str, gib: u64, held: u64) -> Self {
        let ask = Ask {
            resident_bytes: Bytes::gib(gib).0,
            load_transient_bytes: Bytes::gib(1).0,
            held_bytes: Bytes::gib(held).0,
        };
        Self::open(node, &format!("pod:{name}"), hold_request::Message::Ask(ask)).await.unwrap()
    }

    async fn next(&mut self) -> Result<Option<Message>, Status> {
        let answer = tokio::time::timeout(Duration::from_secs(15), self.answers.message()).await;
        Ok(answer.expect("an answer in time")?.map(|answer| answer.message.unwrap()))
    }

    /// The next answer that is none to wait.
    async fn decided(&mut self) -> Message {
        loop {
            match self.next().await.unwrap().unwrap() {
                Message::Waiting(_) => {}
                decided => return decided,
            }
        }
    }

    async fn waits(&mut self) -> String {
        match self.next().await.unwrap().unwrap() {
            Message::Waiting(waiting) => waiting.why,
            other => panic!("{other:?}"),
        }
    }

    async fn is_loaded(&self, gib: u64) {
        let measured = Measured { process_bytes: Bytes::gib(gib).0, is_loaded: true, ..Measured::default() };
        let message = HoldRequest { message: Some(hold_request::Message::Measured(measured)) };
        self.sender.send(message).await.unwrap();
    }
}

#[tokio::test]
async fn a_grant_comes_with_the_ledger_and_ends_with_the_stream() {
    let mut node = Node::start("life").await;
    let mut runtime = Runtime::asking(&node, "a", 10, 0).await;
    assert_eq!(runtime.waits().await, "the agent has not read the ledger of this node yet");
    node.set_ledger(vec![reservation("a", 10, ReservationState::Loading)]).await;
    let Message::Granted(granted) = runtime.decided().await else { panic!("not granted") };
    assert_eq!((granted.resident_bytes, granted.load_transient_bytes), (Bytes::gib(10).0, Bytes::gib(1).0));
    runtime.is_loaded(7).await;
    let measured = |bytes| move |holder: &kindling_api::Holder| holder.measured.is_some_and(|m| m.total_bytes == bytes);
    let seen = node.until("measured", |now| now.holders.iter().any(measured(Bytes::gib(7).0))).await;
    assert_eq!((seen.holders[0].model.as_str(), seen.holders[0].pod_uid.as_str()), ("team/a", "pod-a"));
    drop(runtime);
    node.until("the grant ended", |now| now.holders.is_empty()).await;
}

#[tokio::test]
async fn what_is_not_available_is_waited_for() {
    let node = Node::start("waits").await;
    node.set_available(20);
    node.set_ledger(vec![reservation("a", 10, ReservationState::Loading)]).await;
    let mut runtime = Runtime::asking(&node, "a", 10, 0).await;
    let why = runtime.waits().await;
    assert!(why.starts_with("needs 11.00 GiB") && why.ends_with("20.00 GiB are available"), "{why}");
    node.set_available(21); // and 10 stay free
    assert!(matches!(runtime.next().await, Ok(Some(Message::Granted(_)))));
}

#[tokio::test]
async fn below_the_floor_the_lowest_is_told_to_go_and_nothing_starts_until_it_is_over() {
    let mut node = Node::start("pressure").await;
    let high = kindling_api::Reservation { priority: 9, ..reservation("high", 20, ReservationState::Resident) };
    let other = reservation("new", 1, ReservationState::Loading);
    node.set_ledger(vec![reservation("low", 10, ReservationState::Resident), high, other]).await;
    let mut low = Runtime::asking(&node, "low", 10, 10).await;
    let mut high = Runtime::asking(&node, "high", 20, 20).await;
    for (runtime, gib) in [(&mut low, 10), (&mut high, 20)] {
        assert!(matches!(runtime.decided().await, Message::Granted(_)));
        runtime.is_loaded(gib).await;
    }
    node.set_available(6);
    let Message::Revoked(revoked) = low.decided().await else { panic!("not revoked") };
    assert_eq!(revoked.why, "6.00 GiB are available, 8.00 GiB must stay");
    let seen = node.until("low memory", |now| now.pressure == Pressure::Low && now.num_revoked == 1).await;
    let revoked: Vec<_> = seen.holders.iter().map(|holder| (holder.model.as_str(), holder.is_revoked)).collect();
    assert_eq!(revoked, [("team/low", true), ("team/high", false)]);

    let mut new = Runtime::asking(&node, "new", 1, 0).await;
    assert_eq!(new.waits().await, "the node is short of memory, nothing starts");
    drop(low);
    node.set_available(16);
    assert!(matches!(new.decided().await, Message::Granted(_)), "after ten good seconds");
}

#[tokio::test]
async fn what_an_earlier_agent_measured_without_models_stays_while_there_are_some() {
    let mut node = Node::start("baseline").await;
    assert!(node.snapshots.borrow().baseline.is_none(), "nobody said yet whether there are models");
    let reservations = vec![reservation("a", 5, ReservationState::Resident)];
    node.desk.ledger(Ledger { exists: true, reservations, published_baseline: Some(Bytes::gib(3)) }).await;
    let seen = node.until("a baseline", |now| now.baseline.is_some()).await;
    assert_eq!(seen.baseline, Some(Bytes::gib(3)), "of 10 GiB in use");
}

#[tokio::test]
async fn an_agent_that_ends_says_so() {
    let node = Node::start("ends").await;
    node.set_ledger(vec![reservation("a", 10, ReservationState::Loading)]).await;
    let mut runtime = Runtime::asking(&node, "a", 10, 10).await;
    assert!(matches!(runtime.decided().await, Message::Granted(_)));
    node.shutdown.cancel();
    assert_eq!(runtime.next().await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_stream_begins_with_one_ask() {
    let mut node = Node::start("order").await;
    let measured = hold_request::Message::Measured(Measured::default());
    let mut wrong = Runtime::open(&node, "pod:a", measured).await.unwrap();
    assert_eq!(wrong.next().await.unwrap_err().code(), Code::InvalidArgument);
    let mut twice = Runtime::asking(&node, "a", 1, 1).await;
    assert!(matches!(twice.decided().await, Message::Granted(_)));
    let again = HoldRequest { message: Some(hold_request::Message::Ask(Ask::default())) };
    twice.sender.send(again).await.unwrap();
    assert_eq!(twice.next().await.unwrap_err().code(), Code::InvalidArgument);
    node.until("the grant ended", |now| now.holders.is_empty()).await;
}

#[tokio::test]
async fn only_a_models_pod_of_this_node_may_ask() {
    let node = Node::start("callers").await;
    for (token, code, text) in [
        ("stranger", Code::Unauthenticated, "knows no such token"),
        ("other-audience", Code::Unauthenticated, "knows no such token"),
        ("operator", Code::PermissionDenied, "is not that of a pod"),
        ("elsewhere:a", Code::PermissionDenied, "pod team/a is not on spark-1"),
        ("pod:moved", Code::PermissionDenied, "pod team/moved is not on spark-1"),
        ("pod:replaced", Code::PermissionDenied, "no pod team/replaced with the token's uid"),
        ("pod:gone", Code::PermissionDenied, "no pod team/gone with the token's uid"),
        ("pod:orphan", Code::PermissionDenied, "pod team/orphan belongs to no LocalModel"),
    ] {
        let refused = Runtime::open(&node, token, hold_request::Message::Ask(Ask::default())).await;
        let status = refused.err().unwrap_or_else(|| panic!("{token} was let through"));
        assert_eq!(status.code(), code, "{token}: {}", status.message());
        assert!(status.message().contains(text), "{token}: {}", status.message());
    }
    let (_sender, receiver) = mpsc::channel::<HoldRequest>(1);
    let without = node.client().hold(ReceiverStream::new(receiver)).await.unwrap_err();
    assert_eq!(without.code(), Code::Unauthenticated);
}
