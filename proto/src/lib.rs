//! The gRPC contract between runtime, gateway, operator and agent: messages, clients and servers of `kindling.v1`.
//!
//! Everything here is generated from the files in `proto/kindling/v1/` and committed; after changing the contract
//! run `cargo xtask codegen`. A test of `kindling-proto-codegen` fails while the two disagree. No logic lives here.

/// Version 1 of the contract.
pub mod v1 {
    #![allow(missing_docs, clippy::all, clippy::too_many_lines)]
    include!("generated/kindling.v1.rs");
}

/// Metadata of a refusal that names the field which is wrong, where a client's own client has another name for it.
pub const REFUSED_FIELD: &str = "field";

/// [`REFUSED_FIELD`] of a form that an output can't have.
pub const STRUCTURED_OUTPUT: &str = "structured_output";

/// The compiled `.proto` files, for the gRPC reflection service.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/file_descriptor_set.bin");
