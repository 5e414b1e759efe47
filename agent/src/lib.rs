//! What a node does for models: the cache of weights, imports by hand, downloads from a hub, and the daemon that
//! measures the node's memory and grants it.
//!
//! The cache is a folder of plain files, so that a pod can mount one model of it and a person can look at it:
//! `<cache>/models/hf/<org>/<repo>/<revision>/<file>`, with a manifest beside the files.
//! Only [`daemon`] knows Kubernetes. This crate never reads what is inside a model file.

pub mod cache;
pub mod collect;
pub mod daemon;
pub mod download;
pub mod hub;
mod lock;
pub mod manifest;
mod page_cache;
mod share;
pub mod source;

/// An error with its causes, in one line.
pub(crate) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}
