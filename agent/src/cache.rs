//! The node's cache of weights: where a model lies, what is there, import by hand.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::lock::FolderLock;
use crate::manifest::{FileRecord, Manifest, Origin};
use crate::page_cache::{self, ReadOnce, WINDOW_BYTES};
use crate::source::HubSource;

/// Bytes per read while copying: large enough for the disk, small enough for a smooth progress bar.
const COPY_CHUNK_BYTES: usize = 1 << 20;

/// A cache folder.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

/// One model in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedModel {
    /// `hf:org/repo@revision`.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
    /// Complete files.
    pub num_files: usize,
    /// Their sizes in sum.
    pub num_bytes: u64,
}

/// What an import did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Where the file lies now.
    pub path: PathBuf,
    /// Size and digest.
    pub record: FileRecord,
    /// Whether the same bytes were there already.
    pub already_there: bool,
}

/// Why the cache could not do it.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// No place for a cache is known.
    #[error("no cache folder: set KINDLING_CACHE or HOME")]
    NoHome,
    /// Reading or writing failed.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The failure.
        source: io::Error,
    },
    /// Nothing of this name is there.
    #[error("{name} is not in the cache {}; `kindling cache list` says what is", root.display())]
    NotThere {
        /// What was asked for.
        name: String,
        /// The cache.
        root: PathBuf,
    },
    /// Somebody writes there.
    #[error("{name} is being downloaded or imported at this moment; try again when that is over")]
    InUse {
        /// What was asked for.
        name: String,
    },
    /// The given file cannot be a model's.
    #[error("{} cannot be imported: {reason}", path.display())]
    NotImportable {
        /// What was given.
        path: PathBuf,
        /// Why not.
        reason: &'static str,
    },
}

impl Cache {
    /// A cache in this folder; the folder is made on first write.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The user's cache: `$KINDLING_CACHE`, else `$XDG_CACHE_HOME/kindling`, else `~/.cache/kindling`.
    ///
    /// # Errors
    /// [`CacheError::NoHome`] if none of these is set.
    pub fn of_user() -> Result<Self, CacheError> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        variable("KINDLING_CACHE")
            .or_else(|| variable("XDG_CACHE_HOME").map(|path| path.join("kindling")))
            .or_else(|| variable("HOME").map(|path| path.join(".cache/kindling")))
            .map(Self::at)
            .ok_or(CacheError::NoHome)
    }

    /// The cache's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the files of a model lie, whether or not they are there yet.
    pub fn folder(&self, source: &HubSource) -> PathBuf {
        self.root.join(source.folder())
    }

    /// Puts a file into the cache under a hub's name, as if it had been downloaded. `progress` gets the bytes so far.
    ///
    /// # Errors
    /// [`CacheError`] naming the path that could not be read or written.
    pub fn import(
        &self,
        file: &Path,
        source: &HubSource,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Imported, CacheError> {
        let refuse = |reason| CacheError::NotImportable { path: file.to_owned(), reason };
        let metadata = fs::metadata(file).map_err(at("read", file))?;
        if !metadata.is_file() {
            return Err(refuse("it is no regular file; import the files of a folder one by one"));
        }
        let name = file.file_name().and_then(|name| name.to_str()).ok_or_else(|| refuse("its name is not UTF-8"))?;
        crate::source::check_file_name(name).map_err(|_| refuse("its name has characters that no hub allows"))?;
        let folder = self.folder(source);
        let target = folder.join(name);
        let _lock = FolderLock::take(&folder)?;
        let mut manifest = Manifest::read(&folder).map_err(at("read the manifest in", &folder))?;
        let same = match manifest.files.get(name) {
            Some(record) if manifest.holds(&folder, name) && record.bytes == metadata.len() => {
                let found = digest(file, progress).map_err(at("read", file))?;
                (record.sha256 == found).then(|| record.clone())
            }
            _ => None,
        };
        let already_there = same.is_some();
        let record = match same {
            Some(record) => record,
            None => copy_whole(file, &target, progress)?,
        };
        // also what was downloaded before: from now on nobody but a person takes it away
        let record = FileRecord { origin: Some(Origin::Imported), unnamed_since: None, ..record };
        if manifest.files.get(name) != Some(&record) {
            manifest.files.insert(name.to_owned(), record.clone());
            manifest.write(&folder).map_err(at("write the manifest in", &folder))?;
        }
        Ok(Imported { path: target, record, already_there })
    }

    /// Everything in the cache, by name.
    ///
    /// # Errors
    /// [`CacheError`] if a folder or a manifest cannot be read. A cache that does not exist yet is empty.
    pub fn list(&self) -> Result<Vec<CachedModel>, CacheError> {
        let mut models = Vec::new();
        for (source, folder) in self.folders()? {
            let manifest = Manifest::read(&folder).map_err(at("read the manifest in", &folder))?;
            models.push(CachedModel {
                name: source.to_string(),
                num_files: manifest.files.len(),
                num_bytes: manifest.files.values().map(|record| record.bytes).sum(),
                folder,
            });
        }
        Ok(models)
    }

    /// The folders of all models, by name. What has no name that a model could have is no model's.
    pub(crate) fn folders(&self) -> Result<Vec<(HubSource, PathBuf)>, CacheError> {
        let mut found = Vec::new();
        let hub = self.root.join("models/hf");
        for organisation in folders(&hub)? {
            for repository in folders(&hub.join(&organisation))? {
                for revision in folders(&hub.join(&organisation).join(&repository))? {
                    if let Ok(source) = HubSource::new(&format!("{organisation}/{repository}"), &revision) {
                        found.push((source.clone(), self.folder(&source)));
                    }
                }
            }
        }
        Ok(found)
    }
}

/// Copies through a temporary file beside the target and renames it when it is whole and on disk.
fn copy_whole(file: &Path, target: &Path, progress: &mut dyn FnMut(u64)) -> Result<FileRecord, CacheError> {
    let temporary = target.with_extension(format!("{}.partial", std::process::id()));
    let result = File::open(file)
        .and_then(|from| copy_hashing(from, &temporary, progress))
        .and_then(|record| fs::rename(&temporary, target).map(|()| record))
        .map_err(at("copy into the cache", target));
    if result.is_err() {
        // The copy is worthless and its removal may fail for the same reason as the copy; the first error is told.
        let _ = fs::remove_file(&temporary);
    }
    result
}

/// Copies, and leaves neither of the two in the page cache.
pub(crate) fn copy_hashing(from: File, temporary: &Path, progress: &mut dyn FnMut(u64)) -> io::Result<FileRecord> {
    let mut reader = ReadOnce::new(from);
    // Under the folder's lock, so what lies there is left over from a process of the same number. `create_new` follows
    // no link that somebody put there.
    remove_if_there(temporary)?;
    let mut writer = File::create_new(temporary)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; COPY_CHUNK_BYTES];
    let (mut bytes, mut settled) = (0, 0);
    loop {
        let length = reader.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        hasher.update(&buffer[..length]);
        writer.write_all(&buffer[..length])?;
        bytes += length as u64;
        if bytes - settled >= WINDOW_BYTES {
            page_cache::settle(&writer, &(settled..bytes))?;
            settled = bytes;
        }
        progress(bytes);
    }
    writer.sync_all()?;
    page_cache::forget_all(&writer);
    Ok(FileRecord::downloaded(bytes, hex(&hasher.finalize())))
}

pub(crate) fn remove_if_there(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// SHA-256 of a file, as lower-case hex.
pub(crate) fn digest(file: &Path, progress: &mut dyn FnMut(u64)) -> io::Result<String> {
    let mut reader = ReadOnce::new(File::open(file)?);
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; COPY_CHUNK_BYTES];
    let mut bytes = 0;
    loop {
        let length = reader.read(&mut buffer)?;
        if length == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..length]);
        bytes += length as u64;
        progress(bytes);
    }
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn folders(parent: &Path) -> Result<Vec<String>, CacheError> {
    let entries = match fs::read_dir(parent) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(at("list", parent)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(at("list", parent))?;
        if entry.path().is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Names the action and the path of a failed file operation.
pub(crate) fn at<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> CacheError + 'a {
    move |source| CacheError::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
