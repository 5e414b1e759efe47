//! Brings the files of a model from a hub into the cache: what is complete stays, what was cut is resumed.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use futures::StreamExt;

use crate::cache::{Cache, CacheError, at, digest};
use crate::hub::{Hub, HubError};
use crate::manifest::{FileRecord, Manifest};
use crate::source::{HubSource, SourceError, check_file_name};

/// How far a download is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The file being read.
    pub file: String,
    /// Bytes of this file on disk.
    pub bytes: u64,
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
    let mut manifest = read(&folder)?;
    if is_satisfied(&manifest, &folder, asked) {
        return Ok(());
    }
    let files = hub.files(source, asked).await?;
    fs::create_dir_all(&folder).map_err(at("make folder", &folder))?;
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
    let partial = folder.join(format!("{file}.partial"));
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(at("make folder", parent))?;
    }
    let offset = fs::metadata(&partial).map_or(0, |data| data.len());
    let response = match hub.open(source, file, offset).await {
        // The server has nothing past the offset: the rest came before the cut, or the file changed. Start over.
        Err(HubError::Refused { status: 416, .. }) => hub.open(source, file, 0).await?,
        other => other?,
    };
    let resumed = response.status().as_u16() == 206;
    let expected_sha256 = linked_sha256(&response);
    let start = if resumed { offset } else { 0 };
    let total_bytes = response.content_length().map(|rest| start + rest);

    let mut bytes = start;
    let mut writer = open_partial(&partial, resumed).map_err(at("write", &partial))?;
    let mut body = response.bytes_stream();
    while let Some(chunk) = body.next().await {
        let chunk =
            chunk.map_err(|error| DownloadError::Interrupted { file: file.to_owned(), bytes, source: error })?;
        writer.write_all(&chunk).map_err(at("write", &partial))?;
        bytes += chunk.len() as u64;
        progress(Progress { file: file.to_owned(), bytes, total_bytes });
    }
    writer.sync_all().map_err(at("write", &partial))?;
    if let Some(total_bytes) = total_bytes.filter(|total| *total != bytes) {
        return Err(DownloadError::Short { file: file.to_owned(), bytes, total_bytes });
    }
    let found = digest(&partial, &mut |_| ()).map_err(at("read", &partial))?;
    if let Some(expected) = expected_sha256.filter(|expected| *expected != found) {
        fs::remove_file(&partial).map_err(at("remove", &partial))?;
        return Err(DownloadError::Digest { file: file.to_owned(), found, expected });
    }
    fs::rename(&partial, &target).map_err(at("rename into place", &target))?;
    Ok(FileRecord { bytes, sha256: found })
}

fn open_partial(partial: &Path, resumed: bool) -> io::Result<fs::File> {
    fs::OpenOptions::new().create(true).write(true).append(resumed).truncate(!resumed).open(partial)
}

/// The digest that the hub states for files in large-file storage: an etag of 64 hex digits.
fn linked_sha256(response: &reqwest::Response) -> Option<String> {
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    let etag = header("x-linked-etag").or_else(|| header("etag"))?.trim_matches('"').to_ascii_lowercase();
    (etag.len() == 64 && etag.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(etag)
}
