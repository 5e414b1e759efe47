//! What a checkpoint is and will take, read from its heads: in a folder, on a hub, at an address.
//!
//! The runtime's own reader decides whether and how a model can be run; the heads of a remote one are laid down as files
//! of their true length for it, with nothing behind them. What the runtime cannot run is described by its configuration.

mod describe;
mod facts;
mod planned;
mod read;
mod remote;
mod sparse;
mod stored;

pub use facts::{Facts, Stored};
pub use planned::PlanError;
pub use read::{FactsError, ModelSource, read};
