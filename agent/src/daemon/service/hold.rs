//! One runtime's stream: what it says goes to the desk, and its end ends the grant.

use std::time::Duration;

use kindling_proto::v1::HoldRequest;
use kindling_proto::v1::hold_request::Message;
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::messages;
use crate::daemon::desk::{Answers, DeskHandle};
use crate::daemon::grants::ModelPod;

/// Whoever opens a stream knows what it wants.
const FIRST_WORD: Duration = Duration::from_secs(10);

/// Runs until either side ends the stream.
pub(super) async fn hold(pod: ModelPod, mut inbound: Streaming<HoldRequest>, answers: Answers, desk: DeskHandle) {
    let request = match timeout(FIRST_WORD, next(&mut inbound)).await {
        Ok(Some(Message::Ask(ask))) => messages::request(&ask),
        _ => {
            // the receiver is gone only if the caller is
            let _ = answers.send(Err(Status::invalid_argument("the first message must be an ask"))).await;
            return;
        }
    };
    // The desk's way to the answers is the only one that keeps the stream open.
    let errors = answers.downgrade();
    let Some(grant) = desk.ask(pod, request, answers).await else { return };
    while let Some(message) = next(&mut inbound).await {
        match message {
            Message::Measured(measured) => desk.measured(grant, messages::measurement(&measured)).await,
            Message::Ask(_) => {
                if let Some(answers) = errors.upgrade() {
                    let _ = answers.try_send(Err(Status::invalid_argument("one ask a stream")));
                }
                break;
            }
        }
    }
    desk.ended(grant).await;
}

/// The next message; `None` at the end, however it came.
async fn next(inbound: &mut Streaming<HoldRequest>) -> Option<Message> {
    loop {
        match inbound.message().await {
            // an empty message is one of a newer protocol
            Ok(Some(HoldRequest { message: None })) => {}
            Ok(Some(HoldRequest { message })) => return message,
            Ok(None) | Err(_) => return None,
        }
    }
}
