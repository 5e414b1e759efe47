//! Where a backend gets weights from: tensors by name, read in stages, never mapped.
//!
//! Readers (`kindling-models`) implement [`WeightSource`]; backends read each tensor once, in `prepare`.

use std::io;

use crate::DType;

/// What is known of a stored tensor before it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorDesc {
    /// Name in the checkpoint.
    pub name: String,
    /// Stored element type.
    pub dtype: DType,
    /// Row-major, outermost first: a linear weight is `[out_features, in_features]`, a norm `[hidden_size]`.
    pub shape: Vec<usize>,
    /// Stored size; always `dtype.bytes_for(product of shape)`, the reader has checked it.
    pub num_bytes: usize,
}

/// Tensors of one checkpoint.
pub trait WeightSource: Send + Sync {
    /// Describes a tensor, or `None` if the checkpoint has none of this name.
    fn describe(&self, name: &str) -> Option<TensorDesc>;

    /// Reads the whole tensor as stored into `out`, which must be exactly `num_bytes` long.
    ///
    /// # Errors
    /// [`WeightError`] naming the tensor if it is unknown, the size disagrees or the file ends early.
    fn read(&self, name: &str, out: &mut [u8]) -> Result<(), WeightError>;
}

/// Why a tensor could not be had.
#[derive(Debug, thiserror::Error)]
pub enum WeightError {
    /// The checkpoint lacks it.
    #[error("tensor {name} is missing from the checkpoint")]
    Missing {
        /// Name asked for.
        name: String,
    },
    /// It is there in another shape than the architecture needs.
    #[error("tensor {name} has shape {found:?}, the architecture needs {expected:?}")]
    Shape {
        /// Name asked for.
        name: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape that the plan needs.
        expected: Vec<usize>,
    },
    /// It is stored in a type this backend cannot use there.
    #[error("tensor {name} is stored as {dtype}, which cannot be used as {role}")]
    DType {
        /// Name asked for.
        name: String,
        /// Stored type.
        dtype: DType,
        /// What it was needed for.
        role: &'static str,
    },
    /// Reading failed.
    #[error("read tensor {name}")]
    Read {
        /// Name asked for.
        name: String,
        /// The failed read.
        source: io::Error,
    },
}
