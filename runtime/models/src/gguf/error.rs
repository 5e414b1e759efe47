//! Why a GGUF file is refused.

use std::io;

/// Names the part that is wrong, and where it stands in the file.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// Another kind of file.
    #[error("this is no gguf file: it starts with {found:02x?} instead of \"GGUF\"")]
    Magic {
        /// First four bytes.
        found: [u8; 4],
    },
    /// A version that this reader does not know.
    #[error("gguf version {version} is not supported, only 2 and 3 are")]
    Version {
        /// As stored.
        version: u32,
    },
    /// Written by a big-endian machine.
    #[error("the gguf file is big-endian, only little-endian files are supported")]
    BigEndian,
    /// The file is shorter than its head says.
    #[error("the file ends inside {what}: {needed} bytes are needed at byte {offset}, the file has {num_bytes}")]
    Truncated {
        /// Part being read.
        what: String,
        /// Bytes wanted.
        needed: u64,
        /// Where.
        offset: u64,
        /// Size of the file.
        num_bytes: u64,
    },
    /// A number beyond what is possible or allowed.
    #[error("{what} before byte {offset} is {found}, at most {limit} is possible")]
    TooLarge {
        /// Which number.
        what: String,
        /// Position after it.
        offset: u64,
        /// As stored.
        found: u64,
        /// The bound.
        limit: u64,
    },
    /// Text that is not UTF-8.
    #[error("{what} at byte {offset} is not valid UTF-8")]
    Utf8 {
        /// Which text.
        what: String,
        /// Start of the text.
        offset: u64,
    },
    /// A metadata pair that breaks the format.
    #[error("metadata {key}, before byte {offset}: {problem}")]
    Metadata {
        /// Its key.
        key: String,
        /// Position of the reader.
        offset: u64,
        /// What is wrong.
        problem: String,
    },
    /// A metadata pair that is missing or of the wrong kind for who asked for it.
    #[error("metadata {key} {problem}")]
    Key {
        /// Its key.
        key: String,
        /// What is wrong.
        problem: String,
    },
    /// A tensor whose entry breaks the format or is not supported.
    #[error("tensor {name}: {problem}")]
    Tensor {
        /// Its name.
        name: String,
        /// What is wrong, with the figures.
        problem: String,
    },
    /// The system failed to read.
    #[error("read {what} at byte {offset}")]
    Read {
        /// Part being read.
        what: String,
        /// Where.
        offset: u64,
        /// The failed read.
        source: io::Error,
    },
}
