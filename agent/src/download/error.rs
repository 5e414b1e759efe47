//! Why a model could not be fetched, and whether another try may help.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::cache::CacheError;
use crate::hub::HubError;
use crate::source::SourceError;

/// Between two tries, whatever the server asks for: whoever waits wants to hear why.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

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
    /// The disk has no room for it.
    #[error(
        "the disk of {} is full: no room for {file}; nothing of it was kept, make room or move the cache to a larger \
         disk", folder.display()
    )]
    DiskFull {
        /// Which file.
        file: String,
        /// Where.
        folder: PathBuf,
        /// The failure.
        source: io::Error,
    },
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
    /// An answer that is not what was asked for, or not what it says it is.
    #[error("download of {file}: the server answered a request for {asked} with {found}")]
    Lied {
        /// Which file.
        file: String,
        /// What was asked for.
        asked: String,
        /// What came.
        found: String,
    },
    /// Another version of the file stands there than the one that was begun.
    #[error("{file} changed on the server again and again while it was downloaded; try again when it stays")]
    Changed {
        /// Which file.
        file: String,
    },
}

impl DownloadError {
    /// How long to wait before another try, the so-manieth failure in a row; `None` if another try is of no use.
    pub(super) fn pause(&self, num_failures: u32, first_pause: Duration) -> Option<Duration> {
        let backoff = first_pause.saturating_mul(1 << num_failures.saturating_sub(1).min(10));
        match self {
            Self::Interrupted { .. } | Self::Short { .. } | Self::Hub(HubError::Unreachable { .. }) => Some(backoff),
            Self::Hub(HubError::Refused { status, .. }) if *status >= 500 && *status != 508 => Some(backoff),
            Self::Hub(HubError::Busy { seconds, .. }) => {
                let asked = Duration::from_secs(seconds.unwrap_or(0));
                (asked <= LONGEST_PAUSE).then(|| asked.max(backoff))
            }
            _ => None,
        }
        .map(|pause| pause.min(LONGEST_PAUSE))
    }
}

/// Names the action and the path of a failed file operation; a disk without room is told apart.
pub(super) fn of_disk(action: &'static str, file: &str, path: &std::path::Path, source: io::Error) -> DownloadError {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            let folder = path.parent().unwrap_or(path).to_owned();
            DownloadError::DiskFull { file: file.to_owned(), folder, source }
        }
        _ => DownloadError::Cache(CacheError::Io { action, path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy(seconds: Option<u64>) -> DownloadError {
        HubError::Busy { source_name: "hf:a/b@main".to_owned(), seconds }.into()
    }

    #[test]
    fn pauses_double_and_a_server_may_ask_for_more_but_not_for_ever() {
        let short = DownloadError::Short { file: "m".to_owned(), bytes: 1, total_bytes: 2 };
        let second = Duration::from_secs(1);
        let pauses = [1, 2, 3, 12, 40].map(|failures| short.pause(failures, second).map(|pause| pause.as_secs()));
        assert_eq!(pauses, [Some(1), Some(2), Some(4), Some(300), Some(300)]);
        assert_eq!(busy(Some(30)).pause(1, second), Some(Duration::from_secs(30)));
        assert_eq!(busy(None).pause(2, second), Some(Duration::from_secs(2)));
        assert_eq!(busy(Some(301)).pause(1, second), None);
    }

    #[test]
    fn what_another_try_cannot_change_is_told_at_once() {
        let refused = |status| HubError::Refused { source_name: String::new(), reason: "", url: String::new(), status };
        for (status, is_tried_again) in
            [(401, false), (403, false), (404, false), (508, false), (500, true), (502, true)]
        {
            let pause = DownloadError::from(refused(status)).pause(1, Duration::from_secs(1));
            assert_eq!(pause.is_some(), is_tried_again, "{status}");
        }
        assert_eq!(DownloadError::Changed { file: "m".to_owned() }.pause(1, Duration::from_secs(1)), None);
    }
}
