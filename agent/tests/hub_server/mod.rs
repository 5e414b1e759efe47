//! A hub for tests, and a cache to download into.
#![allow(
    dead_code,
    unused_imports,
    missing_docs,
    clippy::unwrap_used,
    reason = "each test uses some of it; it may panic"
)]

mod scratch;
mod server;

pub use scratch::{Scratch, source};
pub use server::*;
