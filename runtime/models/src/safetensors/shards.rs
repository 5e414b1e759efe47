//! Opens a safetensors checkpoint: one file, or the files that an index names.

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::resolve::resolve;
use super::{SafetensorsError, SafetensorsTensor, SafetensorsWeights, read_header};
use crate::read_at::{FileBytes, ReadAt};

/// The largest known models have fewer than 200.
const MAX_SHARDS: usize = 4096;

/// Why a checkpoint's files could not be joined.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// A file could not be opened.
    #[error("open {}", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file's head is wrong.
    #[error("read the header of {}", path.display())]
    Header {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: SafetensorsError,
    },
    /// The index is not JSON of the right shape.
    #[error("parse the index of shards")]
    Json(#[source] serde_json::Error),
    /// The index contradicts the files, or names files outside the folder.
    #[error("index of shards: {0}")]
    Index(String),
    /// A tensor that cannot be a weight, or whose scales do not fit it.
    #[error("tensor {name}: {problem}")]
    Tensor {
        /// Which.
        name: String,
        /// What is wrong, with the figures.
        problem: String,
    },
    /// Scales could not be read.
    #[error("read tensor {name}")]
    Read {
        /// Which.
        name: String,
        /// The failed read.
        source: io::Error,
    },
}

/// Files, and every stored tensor in them by name.
#[derive(Default)]
pub(super) struct RawTensors {
    /// In the order of their numbers.
    pub files: Vec<Box<dyn ReadAt>>,
    /// By name: the number of the file, and the place in it.
    pub tensors: BTreeMap<String, (usize, SafetensorsTensor)>,
}

/// Opens a checkpoint of one file that is read from `source`.
///
/// # Errors
/// [`ShardError`] with the tensor that is wrong.
pub fn open_source(source: Box<dyn ReadAt>) -> Result<SafetensorsWeights, ShardError> {
    let mut raw = RawTensors::default();
    add_source(&mut raw, source, Path::new("the source"))?;
    resolve(raw)
}

/// Opens a checkpoint of one file.
///
/// # Errors
/// [`ShardError`] with the path.
pub fn open_file(path: &Path) -> Result<SafetensorsWeights, ShardError> {
    let mut raw = RawTensors::default();
    add_file(&mut raw, path)?;
    resolve(raw)
}

/// Paths of the files in `folder` that the index (`model.safetensors.index.json`) names.
///
/// # Errors
/// [`ShardError`] with the entry of the index that is wrong.
pub fn shards(folder: &Path, index: &[u8]) -> Result<Vec<PathBuf>, ShardError> {
    Ok(Index::parse(index)?.shards()?.into_iter().map(|shard| folder.join(shard)).collect())
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Index {
    fn parse(index: &[u8]) -> Result<Self, ShardError> {
        serde_json::from_slice(index).map_err(ShardError::Json)
    }

    /// Each once, by name; all names are checked before the first file is touched.
    fn shards(&self) -> Result<Vec<&str>, ShardError> {
        let mut shards: Vec<&str> = self.weight_map.values().map(String::as_str).collect();
        shards.sort_unstable();
        shards.dedup();
        if shards.len() > MAX_SHARDS {
            let found = shards.len();
            return Err(ShardError::Index(format!("it names {found} files, at most {MAX_SHARDS} are allowed")));
        }
        shards.iter().try_for_each(|shard| check_name(shard))?;
        Ok(shards)
    }
}

/// Opens the files in `folder` that the index (`model.safetensors.index.json`) names.
///
/// # Errors
/// [`ShardError`] with the path, or the entry of the index that is wrong.
pub fn open_index(folder: &Path, index: &[u8]) -> Result<SafetensorsWeights, ShardError> {
    let index = Index::parse(index)?;
    let shards = index.shards()?;
    let mut raw = RawTensors::default();
    for shard in &shards {
        add_file(&mut raw, &folder.join(shard))?;
    }
    for (name, shard) in &index.weight_map {
        let found = raw.tensors.get(name).map(|(file, _)| shards[*file]);
        if found != Some(shard) {
            return Err(ShardError::Index(format!("tensor {name} should be in {shard}, but is not")));
        }
    }
    resolve(raw)
}

/// A shard lies in the folder itself: one plain component that ends in `.safetensors`.
fn check_name(name: &str) -> Result<(), ShardError> {
    let mut components = Path::new(name).components();
    let is_plain = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
    let is_odd = name.contains(['/', '\\', '\0']);
    if !is_plain || is_odd || !name.ends_with(".safetensors") {
        return Err(ShardError::Index(format!("{name:?} is not the name of a safetensors file in this folder")));
    }
    Ok(())
}

fn add_file(raw: &mut RawTensors, path: &Path) -> Result<(), ShardError> {
    let file = FileBytes::open(path).map_err(|source| ShardError::Open { path: path.to_owned(), source })?;
    add_source(raw, Box::new(file), path)
}

fn add_source(raw: &mut RawTensors, source: Box<dyn ReadAt>, path: &Path) -> Result<(), ShardError> {
    let header = |source| ShardError::Header { path: path.to_owned(), source };
    let tensors = read_header(&*source).map_err(header)?;
    let number = raw.files.len();
    raw.files.push(source);
    for tensor in tensors {
        let name = tensor.name.clone();
        if raw.tensors.insert(name.clone(), (number, tensor)).is_some() {
            return Err(ShardError::Index(format!("tensor {name} is in two files, again in {}", path.display())));
        }
    }
    Ok(())
}
