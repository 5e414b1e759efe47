//! The gRPC services: they check and translate, the engine's thread works.

mod admin;
mod inference;

pub use admin::AdminService;
pub use inference::InferenceService;
