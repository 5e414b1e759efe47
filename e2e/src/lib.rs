//! Stories against a real cluster.
