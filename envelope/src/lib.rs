//! What a model needs and what a node has, in bytes. Pure: no files, no clock, no cluster.
//!
//! A model starts only if [`Node::check`] finds room for its [`Footprint`]; what would fit otherwise says
//! [`alternatives`].

mod bytes;
mod check;
pub mod device;
pub mod facts;
mod footprint;
mod kv_cache;
mod learned;
pub mod ledger;
mod solve;

pub use bytes::{Bytes, NotBytes};
pub use check::{Node, Resident, Shortfall};
pub use footprint::{Activations, Footprint, Model};
pub use kv_cache::{BLOCK_TOKENS, CacheLayers, Device, KvDtype, Pool, Serving};
pub use learned::Held;
pub use solve::{Alternatives, alternatives};
