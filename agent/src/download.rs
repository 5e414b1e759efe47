//! Brings the files of a model from a hub into the cache: what is complete stays, what was cut is resumed.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use futures::StreamExt;
use reqwest::StatusCode;
use sha2::{Digest, Sha256};

use crate::cache::{Cache, CacheError, at, digest, hex, remove_if_there};
use crate::hub::{Hub, HubError, Opened};
use crate::lock::FolderLock;
use crate::manifest::{FileRecord, Manifest};
use crate::source::{HubSource, SourceError, check_file_name};

/// How far a download is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The file being read.
    pub file: String,
    /// Bytes of this file on disk.
    pub bytes: u64,
    /// Of them from before this download.
    pub kept_bytes: u64,
    /// Its size, where the hub says it.
    pub total_bytes: Option<u64>,
}

/// Why a model could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// The hub.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The disk.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A file name that cannot be in a cache.
    #[error(transparent)]
    File(#[from] SourceError),
    /// The connection broke; what came is kept.
    #[error("download of {file} broke off after {bytes} bytes; the next try resumes there")]
    Interrupted {
        /// Which file.
        file: String,
        /// Kept on disk.
        bytes: u64,
        /// The failure.
        source: reqwest::Error,
    },
    /// The bytes are not the ones that the hub promised.
    #[error("{file} is damaged: sha256 is {found}, the hub says {expected}; it was removed, try again")]
    Digest {
        /// Which file.
        file: String,
        /// Of the bytes that came.
        found: String,
        /// From the hub.
        expected: String,
    },
    /// The connection ended early without an error.
    #[error("download of {file} ended after {bytes} of {total_bytes} bytes; the next try resumes there")]
    Short {
        /// Which file.
        file: String,
        /// Kept on disk.
        bytes: u64,
        /// Promised by the hub.
        total_bytes: u64,
    },
}

/// Makes sure that a model is in the cache. Without asking the hub if everything asked for is there already.
///
/// # Errors
/// [`DownloadError`]; a later call goes on where this one stopped.
pub async fn pull(
    cache: &Cache,
    hub: &Hub,
    source: &HubSource,
    asked: &[String],
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<(), DownloadError> {
    asked.iter().try_for_each(|file| check_file_name(file))?;
    let folder = cache.folder(source);
    let read = |folder: &Path| Manifest::read(folder).map_err(at("read the manifest in", folder));
    // Without the lock: a cache that may only be read is good enough where nothing is to be done.
    if is_satisfied(&read(&folder)?, &folder, asked) {
        return Ok(());
    }
    fs::create_dir_all(&folder).map_err(at("make folder", &folder))?;
    let _lock = FolderLock::wait(&folder).await?;
    let mut manifest = read(&folder)?;
    if is_satisfied(&manifest, &folder, asked) {
        return Ok(()); // another process brought it meanwhile
    }
    let files = hub.files(source, asked).await?;
    for file in &files {
        if !manifest.holds(&folder, file) {
            let record = fetch(hub, source, &folder, file, progress).await?;
            manifest.files.insert(file.clone(), record);
            manifest.write(&folder).map_err(at("write the manifest in", &folder))?;
        }
    }
    if asked.is_empty() {
        manifest.complete = true;
        manifest.write(&folder).map_err(at("write the manifest in", &folder))?;
    }
    Ok(())
}

/// What lies in the cache of a model that is whole there, so that nothing is to be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    /// Sum of the files.
    pub bytes: u64,
    /// Of the names and digests of the files: changes when one of them does.
    pub digest: String,
}

/// Whether everything that was asked for is in the cache. Never asks the hub.
///
/// # Errors
/// If the manifest is there and can't be read.
pub fn present(cache: &Cache, source: &HubSource, asked: &[String]) -> Result<Option<Present>, CacheError> {
    let folder = cache.folder(source);
    let manifest = Manifest::read(&folder).map_err(at("read the manifest in", &folder))?;
    if !is_satisfied(&manifest, &folder, asked) {
        return Ok(None);
    }
    let is_asked = |name: &&String| asked.is_empty() || asked.contains(name);
    let files: Vec<_> = manifest.files.iter().filter(|(name, _)| is_asked(name)).collect();
    let lines: String = files.iter().map(|(name, record)| format!("{} {name}\n", record.sha256)).collect();
    let bytes = files.iter().map(|(_, record)| record.bytes).sum();
    Ok(Some(Present { bytes, digest: hex(&Sha256::digest(lines.as_bytes())) }))
}

/// How much is still to come. Asks the hub for the size of each file that is not there.
///
/// # Errors
/// As [`pull`].
pub async fn missing(cache: &Cache, hub: &Hub, source: &HubSource, asked: &[String]) -> Result<Missing, DownloadError> {
    let folder = cache.folder(source);
    let manifest = Manifest::read(&folder).map_err(at("read the manifest in", &folder))?;
    let mut missing = Missing { there: 0, to_come: Some(0) };
    for file in hub.files(source, asked).await? {
        if manifest.holds(&folder, &file) {
            missing.there += manifest.files[&file].bytes;
            continue;
        }
        let opened = hub.open(source, &file, 0).await?; // its body is not read
        let total = opened.total_bytes.or_else(|| opened.response.content_length());
        let kept = Partial::of(&folder, &file).kept().map_or(0, |(bytes, _)| bytes);
        missing.there += kept;
        missing.to_come = missing.to_come.zip(total).map(|(sum, total)| sum + total.saturating_sub(kept));
    }
    Ok(missing)
}

/// What a download still has to bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing {
    /// Bytes that are on disk, of complete and of broken off files.
    pub there: u64,
    /// Bytes that are not; `None` if the hub does not say the size of some file.
    pub to_come: Option<u64>,
}

/// Whether the cache alone answers. Without a list of files, a complete download does, and so does a single GGUF
/// that was imported by hand.
fn is_satisfied(manifest: &Manifest, folder: &Path, asked: &[String]) -> bool {
    let all_there = manifest.files.keys().all(|name| manifest.holds(folder, name));
    if asked.is_empty() {
        let only_gguf = manifest.files.len() == 1 && manifest.files.keys().all(|name| name.ends_with(".gguf"));
        return all_there && (manifest.complete || only_gguf);
    }
    asked.iter().all(|name| manifest.holds(folder, name))
}

async fn fetch(
    hub: &Hub,
    source: &HubSource,
    folder: &Path,
    file: &str,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<FileRecord, DownloadError> {
    let target = folder.join(file);
    let partial = Partial::of(folder, file);
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(at("make folder", parent))?;
    }
    let (opened, start) = open(hub, source, file, &partial).await?;
    let total_bytes = opened.total_bytes.or_else(|| opened.response.content_length().map(|rest| start + rest));

    let mut bytes = start;
    let mut writer = partial.writer(start > 0, opened.version.as_deref()).map_err(at("write", &partial.path))?;
    let mut body = opened.response.bytes_stream();
    while let Some(chunk) = body.next().await {
        let chunk =
            chunk.map_err(|error| DownloadError::Interrupted { file: file.to_owned(), bytes, source: error })?;
        writer.write_all(&chunk).map_err(at("write", &partial.path))?;
        bytes += chunk.len() as u64;
        progress(Progress { file: file.to_owned(), bytes, kept_bytes: start, total_bytes });
    }
    writer.sync_all().map_err(at("write", &partial.path))?;
    if let Some(total_bytes) = total_bytes.filter(|total| *total != bytes) {
        return Err(DownloadError::Short { file: file.to_owned(), bytes, total_bytes });
    }
    let found = digest(&partial.path, &mut |_| ()).map_err(at("read", &partial.path))?;
    if let Some(expected) = opened.sha256.filter(|expected| *expected != found) {
        partial.remove()?;
        return Err(DownloadError::Digest { file: file.to_owned(), found, expected });
    }
    partial.finish(&target)?;
    Ok(FileRecord { bytes, sha256: found })
}

/// Opens the file where an earlier download stopped if it is still the same version, else at its start. Returns the
/// offset beside it.
async fn open(hub: &Hub, source: &HubSource, file: &str, partial: &Partial) -> Result<(Opened, u64), DownloadError> {
    if let Some((offset, version)) = partial.kept() {
        match hub.open(source, file, offset).await {
            Ok(opened) if opened.response.status() == StatusCode::OK => return Ok((opened, 0)),
            Ok(opened) if opened.version.as_ref() == Some(&version) => return Ok((opened, offset)),
            // Another version by now: its rest must not be put behind the beginning of the old one. Or the server
            // has nothing past the offset: the rest came before the cut, or the file changed.
            Ok(_) | Err(HubError::Refused { status: 416, .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok((hub.open(source, file, 0).await?, 0))
}

/// The beginning of a file, and beside it which version of the file it is of.
struct Partial {
    path: PathBuf,
    version_path: PathBuf,
}

impl Partial {
    fn of(folder: &Path, file: &str) -> Self {
        let beside = |ending: &str| folder.join(format!("{file}.{ending}"));
        Self { path: beside("partial"), version_path: beside("partial.version") }
    }

    /// How many bytes are here, and of which version; nothing if either is unknown.
    fn kept(&self) -> Option<(u64, String)> {
        let bytes = fs::metadata(&self.path).ok()?.len();
        let version = fs::read_to_string(&self.version_path).ok()?;
        (bytes > 0).then_some((bytes, version))
    }

    /// Where the bytes go. A start from nothing empties the file before it notes the version, so that a crash between
    /// the two leaves nothing under a wrong name.
    fn writer(&self, is_resumed: bool, version: Option<&str>) -> io::Result<fs::File> {
        let mut options = fs::OpenOptions::new();
        let writer = options.create(true).write(true).append(is_resumed).truncate(!is_resumed).open(&self.path)?;
        if !is_resumed {
            match version {
                Some(version) => fs::write(&self.version_path, version)?,
                None => remove_if_there(&self.version_path)?,
            }
        }
        Ok(writer)
    }

    fn remove(&self) -> Result<(), CacheError> {
        [&self.version_path, &self.path]
            .into_iter()
            .try_for_each(|path| remove_if_there(path).map_err(at("remove", path)))
    }

    fn finish(&self, target: &Path) -> Result<(), CacheError> {
        fs::rename(&self.path, target).map_err(at("rename into place", target))?;
        remove_if_there(&self.version_path).map_err(at("remove", &self.version_path))
    }
}
