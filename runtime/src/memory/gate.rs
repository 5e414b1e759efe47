//! Who says when a runtime may take its memory.

use std::fmt;

use tokio_util::sync::CancellationToken;

use super::budget::Need;

/// What a runtime measured of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Measured {
    /// Weights.
    pub weights_bytes: u64,
    /// Keys, values and states.
    pub kv_cache_bytes: u64,
    /// What a step computes in.
    pub activations_bytes: u64,
    /// The whole process.
    pub process_bytes: u64,
}

/// Memory is not to be had.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct GateError(pub String);

/// Says when a runtime may take its memory, and when it has to give it back.
pub trait MemoryGate: Send + Sync + fmt::Debug {
    /// Waits until so much may be taken. Called on the engine's thread, before anything is allocated.
    ///
    /// # Errors
    /// If it never will be.
    fn ask(&self, need: &Need) -> Result<(), GateError>;

    /// Why [`MemoryGate::ask`] still waits, for people; `None` while it does not.
    fn waiting_for(&self) -> Option<String>;

    /// The model is loaded and takes so much.
    fn loaded(&self, measured: Measured);

    /// Cancelled when the memory is to be given back.
    fn revoked(&self) -> CancellationToken;
}

/// Nobody is asked: benchmarks, tests, and whoever has the machine for himself.
#[derive(Debug, Default)]
pub struct Ungated(CancellationToken);

impl MemoryGate for Ungated {
    fn ask(&self, _need: &Need) -> Result<(), GateError> {
        Ok(())
    }

    fn waiting_for(&self) -> Option<String> {
        None
    }

    fn loaded(&self, _measured: Measured) {}

    fn revoked(&self) -> CancellationToken {
        self.0.clone()
    }
}
