//! Why a runtime ends, and how an error is told with all its causes.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use kindling_kernels::{ExecuteError, PrepareError};
use kindling_models::OpenError;

use crate::config::ConfigError;
use crate::memory::{BudgetError, GateError};
use crate::script::ScriptError;

/// Why a runtime cannot serve its model. Shared by all who wait for it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RuntimeError {
    /// The model never became ready.
    #[error("load the model")]
    Load(#[source] Arc<LoadError>),
    /// A step was refused: a mistake in this program.
    #[error("compute a step")]
    Execute(#[from] ExecuteError),
    /// The engine's thread panicked: a mistake in this program.
    #[error("the engine panicked: {message}")]
    Panic {
        /// What it said.
        message: String,
    },
}

/// Why a model cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The checkpoint is missing, damaged or not supported.
    #[error("open {}", path.display())]
    Open {
        /// What was to be opened.
        path: PathBuf,
        /// What is wrong.
        source: Box<OpenError>,
    },
    /// The configuration does not suit the model.
    #[error("configure the runtime")]
    Config(#[from] ConfigError),
    /// The engine cannot do for this model what it was told to do.
    #[error("configure the engine")]
    Engine(#[from] kindling_engine::ConfigError),
    /// The model is larger than what it may take.
    #[error("keep to the memory budget")]
    Budget(#[from] BudgetError),
    /// The memory is not granted.
    #[error("ask for memory")]
    Gate(#[from] GateError),
    /// More was taken than was worked out before: a mistake in this program.
    #[error("the {term} take {taken} bytes, {predicted} were worked out before loading")]
    Exceeded {
        /// Which term.
        term: &'static str,
        /// As held now.
        taken: u64,
        /// As asked for.
        predicted: u64,
    },
    /// Weights or memory could not be had.
    #[error("prepare the {backend} backend")]
    Prepare {
        /// Which backend.
        backend: &'static str,
        /// What is wrong.
        source: PrepareError,
    },
    /// The script does not suit the model.
    #[error("prepare the script")]
    Script(#[from] ScriptError),
    /// The system gave no thread.
    #[error("start the engine's thread")]
    Thread(#[source] io::Error),
}

/// Why serving ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The model cannot be served.
    #[error("serve the model")]
    Runtime(#[from] RuntimeError),
    /// The node's agent took the memory back.
    #[error("the node's agent took the memory of this model back; it is asked for again after a restart")]
    Revoked,
    /// The gRPC server failed.
    #[error("serve gRPC")]
    Grpc(#[from] tonic::transport::Error),
    /// The server of metrics failed.
    #[error("serve metrics")]
    Metrics(#[source] io::Error),
    /// A server panicked: a mistake in this program.
    #[error("run a server")]
    Task(#[from] tokio::task::JoinError),
}

/// An error and its causes in one line.
pub fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
