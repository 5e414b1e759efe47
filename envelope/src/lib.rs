//! What a model needs and what a node has, in bytes. Pure: no files, no clock, no cluster.
//!
//! A model starts only if [`Node::check`] finds room for its [`Footprint`]; what would fit otherwise says
//! [`alternatives`].

mod bytes;
mod check;
mod footprint;
mod kv_cache;
pub mod ledger;
mod solve;

pub use bytes::{Bytes, NotBytes};
pub use check::{Node, Resident, Shortfall};
pub use footprint::{Activations, Footprint, Model};
pub use kv_cache::{BLOCK_TOKENS, CacheLayers, Device, KvDtype, Pool, Serving};
pub use solve::{Alternatives, alternatives};
