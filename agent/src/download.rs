//! Brings the files of a model from a hub into the cache: what is complete stays, what was cut is resumed, what is
//! there under another name is linked.

mod error;
mod fetch;
mod part;
mod spans;
mod transfer;

use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::cache::{Cache, CacheError, at, hex};
use crate::hub::{Hub, Stated};
use crate::lock::FolderLock;
use crate::manifest::{FileRecord, Manifest};
use crate::page_cache::WINDOW_BYTES;
use crate::share;
use crate::source::{HubSource, check_file_name};
pub use error::DownloadError;
use fetch::{Listener, Meter};

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

/// How files are fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Ranges of one file at a time.
    pub streams: usize,
    /// Smaller files come in one stream.
    pub parallel_from_bytes: u64,
    /// Most bytes that are asked for at once, where ranges are.
    pub request_bytes: u64,
    /// What a stream brings until it is put on disk and noted: as much is lost at most when the process dies.
    pub window_bytes: u64,
    /// After a failure; doubled with every further one in a row.
    pub first_pause: Duration,
    /// Failures in a row after which the download gives up.
    pub tries: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            streams: 4,
            parallel_from_bytes: 64 << 20,
            request_bytes: 512 << 20,
            window_bytes: WINDOW_BYTES,
            first_pause: Duration::from_secs(1),
            tries: 5,
        }
    }
}

/// Brings models from one hub into one cache.
#[derive(Debug, Clone)]
pub struct Downloader {
    /// Where to.
    pub cache: Cache,
    /// Where from.
    pub hub: Hub,
    /// How.
    pub settings: Settings,
}

/// What a download has to bring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Bytes that are on disk, of complete and of broken off files, and of files that are there under another name.
    pub there: u64,
    /// Bytes that are not; `None` if the hub does not say the size of some file.
    pub to_come: Option<u64>,
    /// Room on the disk that they still need: the part of a file takes all of its room at once.
    pub disk: Option<u64>,
    source: HubSource,
    is_all: bool,
    files: Vec<Planned>,
}

/// A file that is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Planned {
    name: String,
    stated: Stated,
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
    let downloader = Downloader { cache: cache.clone(), hub: hub.clone(), settings: Settings::default() };
    downloader.pull(source, asked, progress).await
}

impl Downloader {
    /// [`pull`], in the ways of this downloader.
    ///
    /// # Errors
    /// As [`pull`].
    pub async fn pull(
        &self,
        source: &HubSource,
        asked: &[String],
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), DownloadError> {
        asked.iter().try_for_each(|file| check_file_name(file))?;
        let folder = self.cache.folder(source);
        // Without the lock: a cache that may only be read is good enough where nothing is to be done.
        if is_satisfied(&read(&folder)?, &folder, asked) {
            return Ok(());
        }
        let _lock = FolderLock::wait(&folder).await?;
        if is_satisfied(&read(&folder)?, &folder, asked) {
            return Ok(()); // another process brought it meanwhile
        }
        let plan = self.plan(source, asked).await?;
        self.bring(&plan, &folder, progress).await
    }

    /// What is still to come. Asks the hub about each file that is not there.
    ///
    /// # Errors
    /// As [`pull`].
    pub async fn plan(&self, source: &HubSource, asked: &[String]) -> Result<Plan, DownloadError> {
        let folder = self.cache.folder(source);
        let manifest = read(&folder)?;
        let (source, is_all) = (source.clone(), asked.is_empty());
        let mut plan = Plan { there: 0, to_come: Some(0), disk: Some(0), source, is_all, files: Vec::new() };
        for name in self.hub.files(&plan.source, asked).await? {
            if manifest.holds(&folder, &name) {
                plan.there += manifest.files[&name].bytes;
                continue;
            }
            let stated = self.hub.stated(&plan.source, &name).await?;
            let (kept, allocated) = part::kept(&folder, &name, &stated.whole());
            let there = match self.elsewhere(&stated)? {
                Some(_) => stated.total_bytes.unwrap_or(0),
                None => kept,
            };
            plan.there += there;
            let rest = |known: u64| stated.total_bytes.map(|total| total.saturating_sub(known));
            plan.to_come = plan.to_come.zip(rest(there)).map(|(sum, rest)| sum + rest);
            plan.disk = plan.disk.zip(rest(there.max(allocated))).map(|(sum, rest)| sum + rest);
            plan.files.push(Planned { name, stated });
        }
        Ok(plan)
    }

    /// Does what was planned.
    ///
    /// # Errors
    /// As [`pull`].
    pub async fn carry_out(
        &self,
        plan: &Plan,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), DownloadError> {
        let folder = self.cache.folder(&plan.source);
        let _lock = FolderLock::wait(&folder).await?;
        self.bring(plan, &folder, progress).await
    }

    async fn bring(
        &self,
        plan: &Plan,
        folder: &Path,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), DownloadError> {
        let progress = Mutex::new(progress);
        let listener = |said| progress.lock().unwrap_or_else(PoisonError::into_inner)(said);
        let write = |manifest: &Manifest| manifest.write(folder).map_err(at("write the manifest in", folder));
        let mut manifest = read(folder)?;
        for planned in &plan.files {
            if !manifest.holds(folder, &planned.name) {
                let record = self.bring_file(plan, folder, planned, &listener).await?;
                manifest.files.insert(planned.name.clone(), record);
                write(&manifest)?;
            }
        }
        if plan.is_all && !manifest.complete {
            manifest.complete = true;
            write(&manifest)?;
        }
        Ok(())
    }

    /// Links a file that is in the cache under another name, or fetches it. The hub has said by then that we may read
    /// it: nobody gets a gated file by knowing its digest.
    async fn bring_file(
        &self,
        plan: &Plan,
        folder: &Path,
        planned: &Planned,
        listener: Listener<'_>,
    ) -> Result<FileRecord, DownloadError> {
        let Planned { name, stated } = planned;
        let target = folder.join(name);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(at("make folder", parent))?;
        }
        let _turn = match &stated.sha256 {
            Some(sha256) => Some(share::turn(&self.cache, sha256).await?),
            None => None,
        };
        let (Some(found), Some(sha256)) = (self.elsewhere(stated)?, &stated.sha256) else {
            return self.fetch(&plan.source, folder, planned, listener).await;
        };
        let is_linked = share::link(&found, &target, sha256)?;
        tracing::info!(source = %plan.source, file = name, found = %found.display(), is_linked, "the same bytes are here");
        let total = stated.total_bytes.unwrap_or(0);
        Meter::new(listener, name, total, stated.total_bytes).tell();
        Ok(FileRecord::downloaded(total, sha256.clone()))
    }

    /// Where the same bytes are under another name.
    fn elsewhere(&self, stated: &Stated) -> Result<Option<std::path::PathBuf>, CacheError> {
        match (&stated.sha256, stated.total_bytes) {
            (Some(sha256), Some(bytes)) => share::find(&self.cache, sha256, bytes),
            _ => Ok(None),
        }
    }
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
    let manifest = read(&folder)?;
    if !is_satisfied(&manifest, &folder, asked) {
        return Ok(None);
    }
    let is_asked = |name: &&String| asked.is_empty() || asked.contains(name);
    let files: Vec<_> = manifest.files.iter().filter(|(name, _)| is_asked(name)).collect();
    let lines: String = files.iter().map(|(name, record)| format!("{} {name}\n", record.sha256)).collect();
    let bytes = files.iter().map(|(_, record)| record.bytes).sum();
    Ok(Some(Present { bytes, digest: hex(&Sha256::digest(lines.as_bytes())) }))
}

fn read(folder: &Path) -> Result<Manifest, CacheError> {
    Manifest::read(folder).map_err(at("read the manifest in", folder))
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
