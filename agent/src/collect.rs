//! Takes away what nobody names: files that came from a hub, once no LocalModel has named them for some time.
//!
//! Never what was imported by hand, never where somebody writes at this moment, and nothing outside the cache's folder:
//! no link is followed. What is not in a manifest and no part of a download is not ours, and stays.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use crate::cache::{Cache, CacheError, at, remove_if_there};
use crate::lock::FolderLock;
use crate::manifest::{self, Manifest, Origin};
use crate::source::{HubSource, check_file_name};

/// What somebody needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Named {
    /// `None`: all files of it.
    models: BTreeMap<HubSource, Option<BTreeSet<String>>>,
}

/// How the cache stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tidied {
    /// What its files take on the disk, each once however many names it has.
    pub cached_bytes: u64,
    /// Of them what nobody names, which goes when its time has come.
    pub unnamed_bytes: u64,
    /// What was taken away.
    pub freed_bytes: u64,
}

/// A file that nobody names.
struct Unnamed {
    source: HubSource,
    folder: PathBuf,
    name: String,
    since: u64,
    /// Whether the manifest knows it; else it is the part of a download.
    is_complete: bool,
}

impl Named {
    /// Adds files of a model; none means all of it.
    pub fn add(&mut self, source: HubSource, files: &[String]) {
        let entry = self.models.entry(source).or_insert_with(|| Some(BTreeSet::new()));
        match entry {
            Some(names) if !files.is_empty() => names.extend(files.iter().cloned()),
            _ => *entry = None,
        }
    }

    fn keeps(&self, source: &HubSource, file: &str) -> bool {
        match self.models.get(source) {
            None => false,
            Some(None) => true,
            Some(Some(files)) => files.contains(file),
        }
    }
}

/// Notes since when nobody names what nobody names, and takes away what nobody has named for so long. `now` is in
/// seconds since 1970.
///
/// # Errors
/// [`CacheError`] naming what could not be read or removed.
pub fn tidy(cache: &Cache, named: &Named, now: u64, keep: Duration) -> Result<Tidied, CacheError> {
    let mut tidied = Tidied::default();
    for unnamed in mark(cache, named, now)? {
        if now.saturating_sub(unnamed.since) >= keep.as_secs() {
            tidied.freed_bytes += remove(cache, &unnamed, named)?;
        }
    }
    Ok(Tidied { freed_bytes: tidied.freed_bytes, ..measure(cache, Some(named))? })
}

/// Takes away what nobody names, what is so longest first, until so many bytes are free that were not. Says how many
/// are.
///
/// # Errors
/// As [`tidy`].
pub fn make_room(cache: &Cache, named: &Named, now: u64, needed_bytes: u64) -> Result<u64, CacheError> {
    let mut unnamed = mark(cache, named, now)?;
    unnamed.sort_by_key(|unnamed| unnamed.since);
    let mut freed = 0;
    for unnamed in unnamed {
        if freed >= needed_bytes {
            break;
        }
        freed += remove(cache, &unnamed, named)?;
    }
    Ok(freed)
}

impl Cache {
    /// Takes a model out of the cache, or some files of it, however they came there. Says how many bytes that frees.
    ///
    /// # Errors
    /// [`CacheError`] if it is not there, somebody writes there, or it can't be removed.
    pub fn remove(&self, source: &HubSource, wanted: &[String]) -> Result<u64, CacheError> {
        let absent = |name: String| CacheError::NotThere { name, root: self.root().to_owned() };
        let folder = self.folder(source);
        if !real_folders(self)?.iter().any(|(found, _)| found == source) {
            return Err(absent(source.to_string()));
        }
        let in_use = || CacheError::InUse { name: source.to_string() };
        let manifest = Manifest::read(&folder).map_err(at("read the manifest in", &folder))?;
        let there: Vec<String> = files(&folder)?.into_iter().map(|(name, _)| name).collect();
        let whole =
            |name: &str| name.strip_suffix(".journal").unwrap_or(name).strip_suffix(".partial").map(str::to_owned);
        let is_of = |name: &&String| {
            let of = if manifest.files.contains_key(*name) { Some((*name).clone()) } else { whole(name) };
            of.is_some_and(|of| wanted.is_empty() || wanted.contains(&of))
        };
        if let Some(missing) = wanted.iter().find(|name| !there.contains(name) || !manifest.files.contains_key(*name)) {
            return Err(absent(format!("{source} {missing}")));
        }
        let mut freed = 0;
        for name in there.iter().filter(is_of) {
            let lock = FolderLock::if_free(&folder)?.ok_or_else(in_use)?;
            freed += take_away(self, (source, &folder), name, lock)?;
        }
        Ok(freed)
    }
}

/// How the cache stands, where nothing is changed. Without a list of what is named, nothing counts as unnamed.
///
/// # Errors
/// As [`tidy`].
pub fn measure(cache: &Cache, named: Option<&Named>) -> Result<Tidied, CacheError> {
    let mut tidied = Tidied::default();
    let mut seen = BTreeSet::new();
    for (source, folder) in real_folders(cache)? {
        let manifest = Manifest::read(&folder).map_err(at("read the manifest in", &folder))?;
        for (name, metadata) in files(&folder)? {
            let is_new = seen.insert((metadata.dev(), metadata.ino()));
            let bytes = if is_new { metadata.blocks() * 512 } else { 0 };
            tidied.cached_bytes += bytes;
            if named.is_some_and(|named| is_unnamed(&manifest, named, &source, &name).is_some()) {
                tidied.unnamed_bytes += bytes;
            }
        }
    }
    Ok(tidied)
}

/// Brings the notes in the manifests up to date, and lists what nobody names.
fn mark(cache: &Cache, named: &Named, now: u64) -> Result<Vec<Unnamed>, CacheError> {
    let mut all = Vec::new();
    for (source, folder) in real_folders(cache)? {
        // whoever writes there wants something of it; the next time will do
        let Some(_lock) = FolderLock::if_free(&folder)? else { continue };
        let mut manifest = Manifest::read(&folder).map_err(at("read the manifest in", &folder))?;
        let before = manifest.clone();
        for (name, record) in &mut manifest.files {
            let is_named = named.keeps(&source, name) || record.origin != Some(Origin::Downloaded);
            // a note from the future is of a clock that was wrong
            let since = record.unnamed_since.filter(|since| *since <= now).unwrap_or(now);
            record.unnamed_since = (!is_named).then_some(since);
        }
        if manifest != before {
            manifest.write(&folder).map_err(at("write the manifest in", &folder))?;
        }
        for (name, metadata) in files(&folder)? {
            let Some(is_complete) = is_unnamed(&manifest, named, &source, &name) else { continue };
            let written = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            let noted = manifest.files.get(&name).and_then(|record| record.unnamed_since);
            let since = noted.or_else(|| Some(written?.as_secs().min(now))).unwrap_or(now);
            all.push(Unnamed { source: source.clone(), folder: folder.clone(), name, since, is_complete });
        }
    }
    Ok(all)
}

/// Whether a file of the cache is named by nobody: a complete one, or the part of one. `None` if it is to stay.
fn is_unnamed(manifest: &Manifest, named: &Named, source: &HubSource, name: &str) -> Option<bool> {
    if let Some(record) = manifest.files.get(name) {
        return (record.origin == Some(Origin::Downloaded) && !named.keeps(source, name)).then_some(true);
    }
    let whole = name.strip_suffix(".journal").unwrap_or(name).strip_suffix(".partial")?;
    (check_file_name(whole).is_ok() && !named.keeps(source, whole)).then_some(false)
}

/// Takes one file away, unless that changed meanwhile; says how many bytes that frees.
fn remove(cache: &Cache, unnamed: &Unnamed, named: &Named) -> Result<u64, CacheError> {
    let Unnamed { source, folder, name, is_complete, .. } = unnamed;
    let Some(lock) = FolderLock::if_free(folder)? else { return Ok(0) };
    let manifest = Manifest::read(folder).map_err(at("read the manifest in", folder))?;
    if is_unnamed(&manifest, named, source, name) != Some(*is_complete) {
        return Ok(0); // imported by now, or complete by now
    }
    let freed = take_away(cache, (source, folder), name, lock)?;
    tracing::info!(%source, file = name, freed_bytes = freed, "no LocalModel names it: removed from the cache");
    Ok(freed)
}

/// Removes a file of a model's folder, which is locked, with what it leaves empty; says how many bytes that frees.
fn take_away(
    cache: &Cache,
    (source, folder): (&HubSource, &Path),
    name: &str,
    lock: FolderLock,
) -> Result<u64, CacheError> {
    let mut manifest = Manifest::read(folder).map_err(at("read the manifest in", folder))?;
    let path = folder.join(name);
    let found = fs::symlink_metadata(&path).map_err(at("read", &path))?;
    remove_if_there(&path).map_err(at("remove", &path))?;
    // afterwards: a file without an entry would stay for ever
    if manifest.files.remove(name).is_some() {
        manifest.complete = false;
        manifest.write(folder).map_err(at("write the manifest in", folder))?;
    }
    tracing::debug!(%source, file = name, "removed from the cache");
    remove_empty(cache, folder, &path, &manifest, lock)?;
    Ok(if found.nlink() == 1 { found.blocks() * 512 } else { 0 })
}

/// Takes away the folders that are empty now, up to those that all models share.
fn remove_empty(
    cache: &Cache,
    folder: &Path,
    removed: &Path,
    manifest: &Manifest,
    lock: FolderLock,
) -> Result<(), CacheError> {
    for parent in removed.ancestors().skip(1).take_while(|parent| *parent != folder) {
        remove_if_empty(parent)?;
    }
    let own = |name: &str| name == manifest::FILE_NAME || name == crate::lock::FILE_NAME;
    let mut entries = fs::read_dir(folder).map_err(at("list", folder))?;
    let has_others = entries.any(|entry| entry.map_or(true, |entry| !entry.file_name().to_str().is_some_and(own)));
    if has_others || !manifest.files.is_empty() {
        return Ok(());
    }
    let path = folder.join(manifest::FILE_NAME);
    remove_if_there(&path).map_err(at("remove", &path))?;
    lock.remove_folder(folder)?;
    let root = cache.root().join("models/hf");
    folder.ancestors().skip(1).take_while(|parent| **parent != root).try_for_each(remove_if_empty)
}

fn remove_if_empty(folder: &Path) -> Result<(), CacheError> {
    match fs::remove_dir(folder) {
        Err(error) if !matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound) => {
            Err(at("remove", folder)(error))
        }
        _ => Ok(()),
    }
}

/// The folders of models that are reached by no link.
fn real_folders(cache: &Cache) -> Result<Vec<(HubSource, PathBuf)>, CacheError> {
    let is_real = |folder: &Path| {
        let inside = folder.ancestors().take_while(|folder| *folder != cache.root());
        inside.into_iter().all(|folder| fs::symlink_metadata(folder).is_ok_and(|found| found.is_dir()))
    };
    let mut folders = cache.folders()?;
    folders.retain(|(_, folder)| is_real(folder));
    Ok(folders)
}

/// All regular files below a folder, by their path in it; nothing behind links.
fn files(folder: &Path) -> Result<Vec<(String, Metadata)>, CacheError> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(parent) = open.pop() {
        for entry in fs::read_dir(&parent).map_err(at("list", &parent))? {
            let path = entry.map_err(at("list", &parent))?.path();
            let metadata = match fs::symlink_metadata(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue, // renamed at this moment
                other => other.map_err(at("read", &path))?,
            };
            let name = path.strip_prefix(folder).ok().and_then(Path::to_str).map(str::to_owned);
            match name {
                _ if metadata.is_dir() => open.push(path),
                Some(name) if metadata.is_file() => found.push((name, metadata)),
                _ => {}
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
