//! Between the messages of the protocol and the words of the pure parts.

use std::path::Path;

use kindling_api::MeasuredTerms;
use kindling_envelope::Bytes;
use kindling_proto::v1::ensure_model_response::State;
use kindling_proto::v1::hold_response::Message;
use kindling_proto::v1::{Ask, EnsureModelResponse, Granted, HoldResponse, Measured, Revoked, Waiting};
use tonic::Status;

use crate::daemon::grants::{Answer, Measurement, Request};

/// What a runtime asks for.
pub fn request(ask: &Ask) -> Request {
    Request {
        resident: Bytes(ask.resident_bytes),
        load_transient: Bytes(ask.load_transient_bytes),
        held: Bytes(ask.held_bytes),
    }
}

/// What a runtime measured.
pub fn measurement(measured: &Measured) -> Measurement {
    let terms = MeasuredTerms {
        weights_bytes: measured.weights_bytes,
        kv_cache_bytes: measured.kv_cache_bytes,
        activations_bytes: measured.activations_bytes,
        total_bytes: measured.process_bytes,
    };
    Measurement { terms, is_loaded: measured.is_loaded }
}

/// An answer to a request.
pub fn response(answer: &Answer, request: &Request) -> HoldResponse {
    let message = match answer {
        Answer::Granted => Message::Granted(Granted {
            resident_bytes: request.resident.0,
            load_transient_bytes: request.load_transient.0,
        }),
        Answer::Waiting { why, needed, available } => {
            Message::Waiting(Waiting { why: why.clone(), needed_bytes: needed.0, available_bytes: available.0 })
        }
        Answer::Revoked { why } => Message::Revoked(Revoked { why: why.clone() }),
        Answer::Superseded => Message::Revoked(Revoked { why: "the same pod has a newer stream".to_owned() }),
    };
    HoldResponse { message: Some(message) }
}

/// A path that exists is all that is needed of it.
///
/// # Errors
/// `FAILED_PRECONDITION` if it can't be read.
pub fn present_path(path: &Path) -> Result<EnsureModelResponse, Status> {
    let bytes = size(path)
        .map_err(|error| Status::failed_precondition(format!("{} can't be read: {error}", path.display())))?;
    Ok(EnsureModelResponse {
        state: State::Present.into(),
        bytes,
        total_bytes: bytes,
        ..EnsureModelResponse::default()
    })
}

/// Of a file, or of the files of a folder.
fn size(path: &Path) -> std::io::Result<u64> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_dir() {
        return Ok(metadata.len());
    }
    let mut sum = 0;
    for entry in std::fs::read_dir(path)? {
        let metadata = std::fs::metadata(entry?.path())?;
        sum += if metadata.is_file() { metadata.len() } else { 0 };
    }
    Ok(sum)
}
