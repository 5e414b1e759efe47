//! What a node does for models: the cache of weights, imports by hand, downloads from a hub.
//!
//! The cache is a folder of plain files, so that a pod can mount one model of it and a person can look at it:
//! `<cache>/models/hf/<org>/<repo>/<revision>/<file>`, with a manifest beside the files.
//! This crate knows no Kubernetes and never reads what is inside a model file.

pub mod cache;
pub mod download;
pub mod hub;
mod lock;
pub mod manifest;
pub mod source;
