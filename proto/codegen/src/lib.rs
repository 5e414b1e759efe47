//! Makes what lies in `proto/src/generated` from the `.proto` files, in Rust alone: no `protoc` is needed.
//!
//! Called by `cargo xtask codegen`. The result is committed, so that nobody else builds this crate; its test fails
//! when the committed files are not what the `.proto` files give.

use std::path::{Path, PathBuf};

use prost::Message as _;

/// The files of the contract, relative to [`proto_dir`].
pub const PROTO_FILES: [&str; 2] = ["kindling/v1/inference.proto", "kindling/v1/agent.proto"];

/// Names of the files that [`generate`] writes.
pub const GENERATED_FILES: [&str; 2] = ["kindling.v1.rs", "file_descriptor_set.bin"];

/// Why no code was made.
#[derive(Debug, thiserror::Error)]
pub enum CodegenError {
    /// A `.proto` file is missing or wrong.
    #[error("compile the .proto files")]
    Compile(#[from] protox::Error),
    /// The code could not be made or written.
    #[error("write generated code to {path}")]
    Write {
        /// Where to.
        path: PathBuf,
        /// The failed write.
        source: std::io::Error,
    },
}

/// The folder that `.proto` imports are relative to.
pub fn proto_dir() -> PathBuf {
    let manifest_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest_dir.parent().expect("the codegen crate should lie inside proto/").to_path_buf()
}

/// Where the committed files lie.
pub fn generated_dir() -> PathBuf {
    proto_dir().join("src/generated")
}

/// Writes messages, clients, servers and the file descriptor set into `out_dir`, which must exist.
///
/// # Errors
/// [`CodegenError`] if a `.proto` file does not compile or a file cannot be written.
pub fn generate(out_dir: &Path) -> Result<(), CodegenError> {
    let descriptors = protox::compile(PROTO_FILES, [proto_dir()])?;
    let descriptors_path = out_dir.join("file_descriptor_set.bin");
    std::fs::write(&descriptors_path, descriptors.encode_to_vec())
        .map_err(|source| CodegenError::Write { path: descriptors_path, source })?;
    tonic_prost_build::configure()
        // Maps in order: equal messages are equal bytes.
        .btree_map(".")
        .out_dir(out_dir)
        .compile_fds(descriptors)
        .map_err(|source| CodegenError::Write { path: out_dir.to_path_buf(), source })
}
