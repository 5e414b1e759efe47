//! The cap: what a runtime may take is decided before it takes anything.
//!
//! [`fit`] works out each term before the first weight is read and makes the KV cache as large as the budget lets it,
//! or refuses with the numbers. A [`MemoryGate`] is asked before anything is allocated: on a cluster the node's agent
//! ([`AgentGate`]), in `kindling up` the machine itself.

mod agent_gate;
mod budget;
mod gate;
mod process;

pub use agent_gate::{AgentGate, AgentGateError};
pub use budget::{BudgetError, Need, fit};
pub use gate::{GateError, Measured, MemoryGate, Ungated};
pub use process::process_bytes;
