//! From wherever a checkpoint is to what is known of it.

use std::io;
use std::path::PathBuf;

use kindling_agent::hub::{Hub, HubError, RangeError, Traffic};
use kindling_agent::source::{HubSource, SourceError};
use kindling_envelope::facts::DescribeError;
use kindling_models::OpenError;

use crate::{Facts, describe, remote};

/// Where a checkpoint is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelSource {
    /// A `.gguf` file, or a folder as the runtime takes it.
    Path(PathBuf),
    /// A repository of a hub; of all its files those that are named, or what its kind implies.
    Hub {
        /// Which repository, at which revision.
        source: HubSource,
        /// Names of files.
        files: Vec<String>,
    },
    /// The address of a GGUF file.
    Url(String),
}

/// Why nothing is known.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// It is no checkpoint, or a damaged one.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The runtime cannot run it, and what it keeps of the tokens before is not known either.
    #[error("the runtime cannot run it ({reason}), and nothing else is known of it")]
    Describe {
        /// The runtime's reason.
        reason: String,
        /// What is missing.
        source: DescribeError,
    },
    /// The hub.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// A part of a file.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// A name or an address that is none.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The head of a remote file makes no sense.
    #[error("{file}: {problem}")]
    Head {
        /// Which file.
        file: String,
        /// What is wrong.
        problem: String,
    },
    /// Its other parts would be left out of every sum.
    #[error("it is one of {parts} parts of a gguf model; only whole files are supported")]
    Split {
        /// How many there are.
        parts: u64,
    },
    /// An address that ends in something else.
    #[error("{url} is not the address of a .gguf file")]
    NotWeights {
        /// Which.
        url: String,
    },
    /// The heads could not be kept for the reader.
    #[error("write heads of files into the folder of temporary files")]
    Temporary(#[source] io::Error),
    /// The thread that reads heads ended without an answer.
    #[error("reading the heads was broken off")]
    Stopped,
}

/// Reads what is known of a checkpoint, from heads alone. `hub` is asked for repositories and addresses.
///
/// # Errors
/// [`FactsError`] naming what is missing, damaged or not known.
pub async fn read(source: &ModelSource, hub: &Hub) -> Result<Facts, FactsError> {
    let before = hub.traffic();
    let heads = match source {
        ModelSource::Path(_) => None,
        ModelSource::Hub { source, files } => Some(remote::read_hub(hub, source, files).await?),
        ModelSource::Url(url) => Some(remote::read_url(hub, url).await?),
    };
    let path = match (source, &heads) {
        (ModelSource::Path(path), _) => path.clone(),
        (_, Some(heads)) => heads.folder().to_owned(),
        (_, None) => return Err(FactsError::Stopped),
    };
    let folder = heads.as_ref().map(|heads| format!("{}/", heads.folder().display()));
    let described = tokio::task::spawn_blocking(move || describe::describe(&path)).await;
    let mut facts = described.map_err(|_| FactsError::Stopped)??;
    if let (Some(folder), Err(reason)) = (folder, &mut facts.runnable) {
        // Where the heads lie is nobody's business.
        *reason = reason.replace(&folder, "");
    }
    let after = hub.traffic();
    facts.traffic = Traffic { requests: after.requests - before.requests, bytes: after.bytes - before.bytes };
    Ok(facts)
}
