//! What a checkpoint holds as it lies in its files, whether or not anything here can compute it.

use std::path::Path;

use serde_json::{Map, Value};

use crate::gguf::{GgufHeader, Metadata};
use crate::open::{OpenError, stored_files};
use crate::read_at::FileBytes;
use crate::safetensors::{ShardError, read_header};

/// One stored tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTensor {
    /// As in the file.
    pub name: String,
    /// Element type as the format calls it, e.g. `BF16`.
    pub kind: String,
    /// Elements of that type; packed ones count once for each byte or word.
    pub elements: u64,
    /// On disk.
    pub num_bytes: u64,
}

/// The heads of a checkpoint's files.
#[derive(Debug)]
pub struct StoredCheckpoint {
    /// What it says of itself.
    pub description: StoredDescription,
    /// All tensors of all files.
    pub tensors: Vec<StoredTensor>,
    /// Files with tensors.
    pub num_files: usize,
}

/// Where the figures of a model stand.
#[derive(Debug)]
pub enum StoredDescription {
    /// `config.json`.
    ConfigJson(Map<String, Value>),
    /// The metadata of a GGUF file.
    Gguf(Metadata),
}

/// Reads the heads of a checkpoint, which is found as by [`crate::open`].
///
/// # Errors
/// [`OpenError`] naming the file that is missing or damaged.
pub fn read_stored(path: &Path) -> Result<StoredCheckpoint, OpenError> {
    let (config, files) = stored_files(path)?;
    let Some(config) = config else {
        let [file] = &files[..] else { unreachable!("a GGUF checkpoint is one file") };
        let source = FileBytes::open(file).map_err(|source| OpenError::Read { path: file.clone(), source })?;
        let damaged = |source| OpenError::Gguf { path: file.clone(), source };
        let (metadata, tensors) = GgufHeader::read_stored(&source).map_err(damaged)?;
        return Ok(StoredCheckpoint { description: StoredDescription::Gguf(metadata), tensors, num_files: 1 });
    };
    let mut tensors = Vec::new();
    for path in &files {
        let file = FileBytes::open(path).map_err(|source| ShardError::Open { path: path.clone(), source })?;
        let read = read_header(&file).map_err(|source| ShardError::Header { path: path.clone(), source })?;
        tensors.extend(read.into_iter().map(|tensor| StoredTensor {
            kind: tensor.element.name().to_owned(),
            elements: (tensor.num_bytes / tensor.element.num_bytes()) as u64,
            num_bytes: tensor.num_bytes as u64,
            name: tensor.name,
        }));
    }
    let (description, num_files) = (StoredDescription::ConfigJson(config), files.len());
    Ok(StoredCheckpoint { description, tensors, num_files })
}
