//! The gRPC inference service around the engine.
