//! What the cache knows about the files of one model: `.kindling.json` beside them.
//!
//! Written by temporary file and rename, so that it is always whole. A file without an entry is not trusted.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Name of the manifest in a model's folder.
pub const FILE_NAME: &str = ".kindling.json";

/// All files of one model that are complete.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// By path inside the repository.
    pub files: BTreeMap<String, FileRecord>,
    /// Whether everything that the hub lists for this model is here (an import knows only what it was given).
    #[serde(default)]
    pub complete: bool,
}

/// One complete file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Size in bytes.
    pub bytes: u64,
    /// Lower-case hex.
    pub sha256: String,
    /// How it came here; unset where an earlier version of Kindling did not note it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// Since when no LocalModel names it, in seconds since 1970; unset while one does, or while nobody looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unnamed_since: Option<u64>,
}

/// How a file came into the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// From a hub: it can be had again, so it may go when nobody names it.
    Downloaded,
    /// By a person, who alone may take it away.
    Imported,
}

impl FileRecord {
    /// Of a file that came from a hub.
    pub fn downloaded(bytes: u64, sha256: String) -> Self {
        Self { bytes, sha256, origin: Some(Origin::Downloaded), unnamed_since: None }
    }
}

impl Manifest {
    /// Reads the manifest of a folder; an absent one is empty.
    ///
    /// # Errors
    /// If it is there and cannot be read or understood.
    pub fn read(folder: &Path) -> io::Result<Self> {
        match fs::read(folder.join(FILE_NAME)) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// Replaces the manifest of a folder.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        let temporary = folder.join(format!("{FILE_NAME}.{}.partial", std::process::id()));
        // new, so that no link is followed that somebody put there
        crate::cache::remove_if_there(&temporary)?;
        let mut file = fs::File::create_new(&temporary)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        // an empty manifest after a crash would make all that is here unknown
        file.sync_all()?;
        fs::rename(temporary, folder.join(FILE_NAME))
    }

    /// Whether a file is recorded and lies there in its recorded size.
    pub fn holds(&self, folder: &Path, name: &str) -> bool {
        let on_disk = fs::metadata(folder.join(name)).map(|data| data.len()).ok();
        self.files.get(name).is_some_and(|record| Some(record.bytes) == on_disk)
    }
}
