//! One writer per model's folder: downloads and imports take turns, across processes and pods of a node.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cache::{CacheError, at};

const FILE_NAME: &str = ".kindling.lock";
const PATIENCE: Duration = Duration::from_millis(200);

/// Held until it is dropped. The kernel lets go of it when its process dies, so that none is ever left over.
#[derive(Debug)]
pub(crate) struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Waits until nobody else writes in the folder, which must exist.
    pub(crate) fn take(folder: &Path) -> Result<Self, CacheError> {
        let (path, file) = open(folder)?;
        file.lock().map_err(at("lock", &path))?;
        Ok(Self { _file: file })
    }

    /// [`FolderLock::take`] that can be cancelled: a thread that sleeps in the kernel would keep the process alive.
    pub(crate) async fn wait(folder: &Path) -> Result<Self, CacheError> {
        let (path, file) = open(folder)?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::WouldBlock) => tokio::time::sleep(PATIENCE).await,
                Err(TryLockError::Error(error)) => return Err(at("lock", &path)(error)),
            }
        }
    }
}

/// Reading is enough to lock, and the file may be another user's.
fn open(folder: &Path) -> Result<(PathBuf, File), CacheError> {
    let path = folder.join(FILE_NAME);
    let opened = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            OpenOptions::new().create(true).write(true).truncate(false).open(&path)
        }
        other => other,
    };
    let file = opened.map_err(at("lock", &path))?;
    Ok((path, file))
}
