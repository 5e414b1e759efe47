//! One copy of the same bytes: a file that is in the cache under another name is linked, not fetched again.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::cache::{Cache, CacheError, at, copy_hashing, remove_if_there};
use crate::lock::FolderLock;
use crate::manifest::Manifest;

/// Where downloads of the same bytes wait for each other, below the cache's folder.
const TURNS: &str = ".turns";

/// Waits until nobody else fetches bytes of this digest into this cache, in whatever process. Two digests that begin
/// alike take turns without need, which bounds the number of files.
pub(crate) async fn turn(cache: &Cache, sha256: &str) -> Result<FolderLock, CacheError> {
    FolderLock::wait(&cache.root().join(TURNS).join(sha256.get(..2).unwrap_or("00"))).await
}

/// A complete file of the cache with these bytes.
pub(crate) fn find(cache: &Cache, sha256: &str, bytes: u64) -> Result<Option<PathBuf>, CacheError> {
    for (_, folder) in cache.folders()? {
        let manifest = match Manifest::read(&folder) {
            Ok(manifest) => manifest,
            Err(error) => {
                // told where that model itself is asked for; here it only costs a download
                tracing::warn!(%error, folder = %folder.display(), "a manifest in the cache can't be read");
                continue;
            }
        };
        let same = manifest
            .files
            .iter()
            .find(|(name, record)| record.sha256 == sha256 && record.bytes == bytes && manifest.holds(&folder, name));
        let path = same.map(|(name, _)| folder.join(name));
        // a link would be shared as a link, and may lead anywhere
        if let Some(path) = path.filter(|path| fs::symlink_metadata(path).is_ok_and(|found| found.is_file())) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Puts the same bytes in a second place: as a link to them where the file system can, else as a checked copy. Says
/// whether that took no room.
pub(crate) fn link(found: &Path, target: &Path, sha256: &str) -> Result<bool, CacheError> {
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(at("make folder", parent))?;
    }
    let temporary = target.with_extension(format!("{}.partial", std::process::id()));
    remove_if_there(&temporary).map_err(at("remove", &temporary))?;
    let is_linked = match fs::hard_link(found, &temporary) {
        Ok(()) => true,
        Err(error) => {
            tracing::info!(%error, found = %found.display(), "can't be linked; copying it");
            let copied = copy_hashing(File::open(found).map_err(at("read", found))?, &temporary, &mut |_| ())
                .map_err(at("copy", found))
                .and_then(|record| match record.sha256 == sha256 {
                    true => Ok(()),
                    false => Err(at("copy", found)(io::Error::other("its bytes are not those of its digest any more"))),
                });
            if let Err(error) = copied {
                let _ = fs::remove_file(&temporary); // worthless; the first error is told
                return Err(error);
            }
            false
        }
    };
    fs::rename(&temporary, target).map_err(at("rename into place", target))?;
    // where both names were one file already, a rename leaves the temporary name there
    remove_if_there(&temporary).map_err(at("remove", &temporary))?;
    Ok(is_linked)
}
