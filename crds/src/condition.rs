//! The conditions of a LocalModel, in the order in which they become true.

use std::fmt;

/// What a condition is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConditionType {
    /// The spec is valid and everything it names could be found.
    Resolved,
    /// The weights are on the node.
    Downloaded,
    /// Memory of a node is reserved for it.
    MemoryAdmitted,
    /// The runtime holds the weights in memory.
    Loaded,
    /// The summary: requests to the endpoint are answered.
    Ready,
}

impl ConditionType {
    /// All of them, in the order in which they become true.
    pub const ALL: [Self; 5] = [Self::Resolved, Self::Downloaded, Self::MemoryAdmitted, Self::Loaded, Self::Ready];

    /// The name in `status.conditions[].type`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Resolved => "Resolved",
            Self::Downloaded => "Downloaded",
            Self::MemoryAdmitted => "MemoryAdmitted",
            Self::Loaded => "Loaded",
            Self::Ready => "Ready",
        }
    }
}

impl fmt::Display for ConditionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not hold; the reason says why.
    False,
    /// It could not be found out.
    Unknown,
}

impl ConditionStatus {
    /// The value in `status.conditions[].status`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}
