//! The cache loses what nobody names. All of this blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use kindling_proto::v1::KeepOnlyResponse;
use tonic::Status;

use super::super::keep::{Keeper, Wanted};
use super::Shared;
use crate::cache::CacheError;
use crate::collect::{self, Named};
use crate::with_sources;

impl Shared {
    pub(super) fn keeper(&self) -> MutexGuard<'_, Keeper> {
        // what is under the lock is replaced as a whole
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What must stay now, or why that can't be said.
    fn keep(&self) -> Result<Named, String> {
        self.keeper().keep(&self.node.borrow())
    }

    pub(super) fn tidy(&self, named: BTreeMap<String, BTreeSet<Wanted>>) -> Result<KeepOnlyResponse, Status> {
        let failed = |error: CacheError| Status::failed_precondition(with_sources(&error));
        self.keeper().take(named, &self.node.borrow());
        let cache = &self.downloader.cache;
        let (tidied, held_back) = match self.keep() {
            Ok(keep) => (collect::tidy(cache, &keep, now(), self.keep_unnamed).map_err(failed)?, String::new()),
            Err(why) => {
                tracing::info!(why, "nothing is removed from the cache");
                (collect::measure(cache, None).map_err(failed)?, why)
            }
        };
        self.figures.set(tidied.cached_bytes, tidied.unnamed_bytes);
        self.figures.freed(tidied.freed_bytes);
        let collect::Tidied { cached_bytes, unnamed_bytes, freed_bytes } = tidied;
        Ok(KeepOnlyResponse { cached_bytes, unnamed_bytes, freed_bytes, held_back })
    }

    /// Takes away what nobody names, before its time, for a download that has no room otherwise.
    pub(super) fn make_room(&self, needed_bytes: u64) {
        let keep = match self.keep() {
            Ok(keep) => keep,
            Err(why) => {
                tracing::warn!(
                    why,
                    "the disk has no room for a download, and nothing is removed from the cache for it"
                );
                return;
            }
        };
        match collect::make_room(&self.downloader.cache, &keep, now(), needed_bytes) {
            Ok(freed_bytes) => {
                tracing::info!(needed_bytes, freed_bytes, "made room for a download");
                self.figures.freed(freed_bytes);
            }
            // that there is no room is told to whoever wants the download
            Err(error) => tracing::warn!(error = with_sources(&error), "making room for a download failed"),
        }
    }

    pub(super) fn count(&self) {
        let keep = self.keep().ok();
        match collect::measure(&self.downloader.cache, keep.as_ref()) {
            Ok(found) => self.figures.set(found.cached_bytes, found.unnamed_bytes),
            Err(error) => tracing::warn!(error = with_sources(&error), "what is in the cache can't be counted"),
        }
    }
}

/// Seconds since 1970; a clock before that says 0, and what is newer counts as new.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
