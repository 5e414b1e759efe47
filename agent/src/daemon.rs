//! `kindling agent`: one on each node. Measures the node's memory, grants it to runtimes, takes it back before the
//! kernel is in trouble, brings weights into the cache.
//!
//! Reads top to bottom: [`memory`] reads the kernel; [`watch`] and [`grants`] decide and are pure.

pub mod grants;
pub mod memory;
pub mod watch;
