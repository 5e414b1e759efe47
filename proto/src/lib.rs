//! The gRPC contract between runtime and gateway, and the code generated from it.
