//! The one binary of Kindling.

fn main() {}
