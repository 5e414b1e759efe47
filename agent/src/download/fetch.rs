//! One file, from the first question to its place: tries again while that helps, checks the digest, tells how far it is.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::of_disk;
use super::part::Part;
use super::transfer::Transfer;
use super::{DownloadError, Downloader, Planned, Progress};
use crate::cache::digest;
use crate::manifest::FileRecord;
use crate::source::HubSource;

/// How often a file may change on the server while it is downloaded.
const MAX_CHANGES: u32 = 2;

/// Where progress is told.
pub(super) type Listener<'a> = &'a (dyn Fn(Progress) + Send + Sync);

/// Counts the bytes of one file, whichever stream they come by.
pub(super) struct Meter<'a> {
    listener: Listener<'a>,
    file: &'a str,
    total_bytes: Option<u64>,
    kept_bytes: AtomicU64,
    bytes: AtomicU64,
}

impl<'a> Meter<'a> {
    pub(super) fn new(listener: Listener<'a>, file: &'a str, kept_bytes: u64, total_bytes: Option<u64>) -> Self {
        let [kept_bytes, bytes] = [kept_bytes; 2].map(AtomicU64::new);
        Self { listener, file, total_bytes, kept_bytes, bytes }
    }

    pub(super) fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.tell();
    }

    /// What was here counts no more.
    pub(super) fn restart(&self) {
        self.kept_bytes.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
    }

    pub(super) fn tell(&self) {
        let progress = Progress {
            file: self.file.to_owned(),
            bytes: self.bytes.load(Ordering::Relaxed),
            kept_bytes: self.kept_bytes.load(Ordering::Relaxed),
            total_bytes: self.total_bytes,
        };
        (self.listener)(progress);
    }
}

impl Downloader {
    /// Brings one file to its place in the folder, whose lock the caller holds.
    pub(super) async fn fetch(
        &self,
        source: &HubSource,
        folder: &Path,
        planned: &Planned,
        listener: Listener<'_>,
    ) -> Result<FileRecord, DownloadError> {
        let file = planned.name.as_str();
        let part = Part::open(folder, file, &planned.stated.whole())
            .map_err(|error| of_disk("write the part of", file, &folder.join(file), error))?;
        let meter = Meter::new(listener, file, part.num_bytes(), planned.stated.total_bytes);
        let (hub, settings, stated) = (&self.hub, &self.settings, planned.stated.clone());
        let mut transfer = Transfer { hub, source, file, settings, meter: &meter, stated, part: Arc::new(part) };
        let result = match self.persist(&mut transfer).await {
            Ok(digest) => place(&transfer, &folder.join(file), digest).await,
            Err(error) => Err(error),
        };
        if let Err(DownloadError::DiskFull { .. } | DownloadError::Digest { .. }) = &result {
            // worthless, or in the way of all others on this disk
            transfer.part.remove().map_err(|error| of_disk("remove", file, transfer.part.path(), error))?;
        }
        result
    }

    /// Tries until all is here, or another try is of no use. A try that brought something does not count.
    async fn persist(&self, transfer: &mut Transfer<'_>) -> Result<Option<String>, DownloadError> {
        let (mut num_failures, mut num_changes, mut most) = (0, 0, transfer.part.num_bytes());
        loop {
            let error = match transfer.run().await {
                Ok(digest) => return Ok(digest),
                Err(error) => error,
            };
            if matches!(error, DownloadError::Changed { .. }) && num_changes < MAX_CHANGES {
                num_changes += 1;
                tracing::warn!(file = transfer.file, "the file changed on the server; it starts from the beginning");
                self.begin_again(transfer).await?;
                most = 0;
                continue;
            }
            if transfer.part.num_bytes() > most {
                (most, num_failures) = (transfer.part.num_bytes(), 0);
            }
            num_failures += 1;
            let pause = error.pause(num_failures, self.settings.first_pause);
            let Some(pause) = pause.filter(|_| num_failures < self.settings.tries) else { return Err(error) };
            tracing::warn!(error = %crate::with_sources(&error), ?pause, "a download stopped and goes on after a pause");
            tokio::time::sleep(pause).await;
        }
    }

    async fn begin_again(&self, transfer: &mut Transfer<'_>) -> Result<(), DownloadError> {
        transfer.stated = self.hub.stated(transfer.source, transfer.file).await?;
        let anew = transfer.part.anew(transfer.stated.whole());
        let anew = anew.map_err(|error| of_disk("write", transfer.file, transfer.part.path(), error))?;
        transfer.part = Arc::new(anew);
        transfer.meter.restart();
        Ok(())
    }
}

/// Checks what came, and puts it in its place.
async fn place(
    transfer: &Transfer<'_>,
    target: &Path,
    digest_in_order: Option<String>,
) -> Result<FileRecord, DownloadError> {
    let (part, file) = (&transfer.part, transfer.file.to_owned());
    let found = match digest_in_order {
        Some(found) => found,
        None => {
            let path = part.path().to_owned();
            let read = tokio::task::spawn_blocking(move || digest(&path, &mut |_| ())).await;
            let read = read.map_err(std::io::Error::other).and_then(|result| result);
            read.map_err(|error| of_disk("read", &file, part.path(), error))?
        }
    };
    if let Some(expected) = transfer.stated.sha256.clone().filter(|expected| *expected != found) {
        return Err(DownloadError::Digest { file, found, expected });
    }
    let (moved, place) = (part.clone(), target.to_owned());
    let moved = tokio::task::spawn_blocking(move || moved.finish(&place)).await;
    let moved = moved.map_err(std::io::Error::other).and_then(|result| result);
    moved.map_err(|error| of_disk("rename into place", &file, target, error))?;
    let bytes = fs::metadata(target).map_err(|error| of_disk("read", &file, target, error))?.len();
    Ok(FileRecord::downloaded(bytes, found))
}
