//! One writer per model's folder: downloads and imports take turns, across processes and pods of a node.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cache::{CacheError, at, remove_if_there};

pub(crate) const FILE_NAME: &str = ".kindling.lock";
const PATIENCE: Duration = Duration::from_millis(200);

/// Held until it is dropped. The kernel lets go of it when its process dies, so that none is ever left over.
#[derive(Debug)]
pub(crate) struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Waits until nobody else writes in the folder, which is made if it is not there.
    pub(crate) fn take(folder: &Path) -> Result<Self, CacheError> {
        loop {
            let (path, file) = open(folder)?;
            file.lock().map_err(at("lock", &path))?;
            if is_in_place(&file, &path) {
                return Ok(Self { _file: file });
            }
        }
    }

    /// [`FolderLock::take`] that can be cancelled: a thread that sleeps in the kernel would keep the process alive.
    pub(crate) async fn wait(folder: &Path) -> Result<Self, CacheError> {
        loop {
            if let Some(lock) = Self::if_free(folder)? {
                return Ok(lock);
            }
            tokio::time::sleep(PATIENCE).await;
        }
    }

    /// Takes the lock if nobody holds it.
    pub(crate) fn if_free(folder: &Path) -> Result<Option<Self>, CacheError> {
        loop {
            let (path, file) = open(folder)?;
            match file.try_lock() {
                Ok(()) if is_in_place(&file, &path) => return Ok(Some(Self { _file: file })),
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(at("lock", &path)(error)),
            }
        }
    }

    /// Takes the lock's file away, and with it the folder if nothing else is there. Who waits for the lock sees that
    /// and makes both anew.
    pub(crate) fn remove_folder(self, folder: &Path) -> Result<(), CacheError> {
        let path = folder.join(FILE_NAME);
        remove_if_there(&path).map_err(at("remove", &path))?;
        match fs::remove_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => Err(at("remove", folder)(error)),
            _ => Ok(()),
        }
    }
}

/// Reading is enough to lock, and the file may be another user's.
fn open(folder: &Path) -> Result<(PathBuf, File), CacheError> {
    let path = folder.join(FILE_NAME);
    loop {
        let opened = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(folder).map_err(at("make folder", folder))?;
                OpenOptions::new().create(true).write(true).truncate(false).open(&path)
            }
            other => other,
        };
        match opened {
            // the folder was taken away in between
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return opened.map(|file| (path.clone(), file)).map_err(at("lock", &path)),
        }
    }
}

/// Whether what was locked is what others lock: the folder may have been taken away while we waited.
fn is_in_place(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(held), Ok(there)) => (held.dev(), held.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}
