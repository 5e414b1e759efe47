//! Brings the bytes of one file into its part: large files by several ranges at a time, where the server can do that.
//!
//! A worker whose connection breaks notes what it has, gives the rest back and ends; the others go on. When all have
//! ended and something is missing, the caller waits and tries again.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::join_all;
use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::error::of_disk;
use super::part::{Part, Whole};
use super::{DownloadError, Meter, Settings};
use crate::cache::hex;
use crate::hub::{Hub, HubError, Opened, Stated, content_range};
use crate::source::HubSource;

/// Bytes that are gathered for one write.
const WRITE_BYTES: usize = 1 << 20;

/// Stretches begin at multiples of this.
const ALIGNMENT_BYTES: u64 = 1 << 20;

/// One file on its way.
pub(super) struct Transfer<'a> {
    pub(super) hub: &'a Hub,
    pub(super) source: &'a HubSource,
    pub(super) file: &'a str,
    pub(super) settings: &'a Settings,
    pub(super) meter: &'a Meter<'a>,
    pub(super) stated: Stated,
    pub(super) part: Arc<Part>,
}

/// Stretches that nobody fetches yet.
type Queue = Mutex<VecDeque<Range<u64>>>;

impl Stated {
    pub(super) fn whole(&self) -> Whole {
        Whole { version: self.version.clone(), total_bytes: self.total_bytes }
    }
}

impl Transfer<'_> {
    /// Fetches what is missing. Says the digest if it came in order and at once.
    ///
    /// # Errors
    /// What is here by then is noted. [`DownloadError::Changed`] if the part is of another version than the server's.
    pub(super) async fn run(&mut self) -> Result<Option<String>, DownloadError> {
        let missing = self.part.missing();
        let total = self.part.whole().total_bytes;
        if total.is_some() && missing.is_empty() {
            return Ok(None);
        }
        let is_parallel = self.settings.streams > 1
            && self.part.whole().version.is_some()
            && total.is_some_and(|total| total >= self.settings.parallel_from_bytes);
        let mut queue = if is_parallel { cut(missing, self.settings) } else { missing.into() };
        let is_from_scratch = self.part.num_bytes() == 0;
        let range = if is_from_scratch && !is_parallel { None } else { queue.pop_front() };
        let opened = self.open(range.as_ref()).await?;
        match range {
            Some(range) if opened.response.status() == StatusCode::PARTIAL_CONTENT => {
                self.check(&range, &opened)?;
                let streams = if is_parallel { self.settings.streams } else { 1 };
                self.ranges(queue, (range, opened.response), streams).await
            }
            range => {
                if range.is_some() {
                    let why = "it sends the file whole, in one stream and from its beginning";
                    tracing::warn!(source = %self.source, file = self.file, why, "the server does not answer ranges");
                }
                self.in_order(opened).await.map(Some)
            }
        }
    }

    async fn open(&self, range: Option<&Range<u64>>) -> Result<Opened, DownloadError> {
        match self.hub.open(self.source, self.file, range, self.stated.if_range.as_deref()).await {
            // the file ends before the range begins: it is shorter now
            Err(HubError::Refused { status: 416, .. }) => Err(self.changed()),
            other => Ok(other?),
        }
    }

    /// The answer must be of the version that was begun, and of the bytes that were asked for.
    fn check(&self, range: &Range<u64>, opened: &Opened) -> Result<(), DownloadError> {
        let whole = self.part.whole();
        if opened.stated.version != whole.version || opened.response.status() == StatusCode::OK {
            return Err(self.changed());
        }
        let header = opened.response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
        let found = header.and_then(content_range);
        let is_asked = |(first, last, total)| {
            first == range.start && last + 1 == range.end && whole.total_bytes.is_none_or(|known| known == total)
        };
        if !found.is_some_and(is_asked) {
            return Err(self.lied(range, format!("the content-range {:?}", header.unwrap_or_default())));
        }
        Ok(())
    }

    /// Several at a time, until nothing is left or all of them have failed.
    async fn ranges(
        &self,
        queue: VecDeque<Range<u64>>,
        first: (Range<u64>, Response),
        streams: usize,
    ) -> Result<Option<String>, DownloadError> {
        let stop = CancellationToken::new();
        let num_workers = streams.min(queue.len() + 1);
        let queue = Mutex::new(queue);
        let mut first = Some(first);
        let workers: Vec<_> = (0..num_workers).map(|_| self.work(&queue, first.take(), &stop)).collect();
        let failures: Vec<_> = join_all(workers).await.into_iter().filter_map(Result::err).collect();
        if self.part.missing().is_empty() {
            return Ok(None);
        }
        let is_final = |error: &DownloadError| error.pause(1, self.settings.first_pause).is_none();
        let worst = failures.iter().position(is_final).unwrap_or(0);
        Err(match failures.into_iter().nth(worst) {
            // of all streams, also those that ended later
            Some(DownloadError::Interrupted { file, source, .. }) => {
                DownloadError::Interrupted { file, source, bytes: self.part.num_bytes() }
            }
            Some(DownloadError::Short { .. }) | None => self.short(),
            Some(error) => error,
        })
    }

    async fn work(
        &self,
        queue: &Queue,
        mut opened: Option<(Range<u64>, Response)>,
        stop: &CancellationToken,
    ) -> Result<(), DownloadError> {
        let queue = || queue.lock().unwrap_or_else(PoisonError::into_inner);
        while !stop.is_cancelled() {
            let (mut range, answer) = match opened.take() {
                Some((range, response)) => (range, Ok(response)),
                None => {
                    let Some(range) = queue().pop_front() else { break };
                    let answer = self.open(Some(&range)).await;
                    let answer = answer.and_then(|opened| self.check(&range, &opened).map(|()| opened.response));
                    (range, answer)
                }
            };
            let result = match answer {
                Ok(response) => self.stream(&mut range, response, None, stop).await,
                Err(error) => Err(error),
            };
            if !range.is_empty() {
                queue().push_front(range);
            }
            if let Err(error) = result {
                if error.pause(1, self.settings.first_pause).is_none() {
                    stop.cancel(); // what the others could bring is of no use
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// The whole file in one stream, from its beginning; says its digest.
    async fn in_order(&mut self, opened: Opened) -> Result<String, DownloadError> {
        let Opened { response, stated } = opened;
        let whole = stated.whole();
        if self.part.num_bytes() > 0 || *self.part.whole() != whole {
            let anew = self.part.anew(whole).map_err(|error| self.of_disk("write", error))?;
            self.part = Arc::new(anew);
            self.meter.restart();
        }
        self.stated = stated;
        let mut hasher = Sha256::new();
        let mut range = 0..self.part.whole().total_bytes.unwrap_or(u64::MAX);
        self.stream(&mut range, response, Some(&mut hasher), &CancellationToken::new()).await?;
        Ok(hex(&hasher.finalize()))
    }

    /// Writes a body to where it belongs; `range` is what is left of it afterwards. What came is noted in any case.
    async fn stream(
        &self,
        range: &mut Range<u64>,
        mut response: Response,
        mut hasher: Option<&mut Sha256>,
        stop: &CancellationToken,
    ) -> Result<(), DownloadError> {
        let asked = range.clone();
        let mut buffer = Vec::with_capacity(WRITE_BYTES);
        let mut noted = range.start;
        let result = loop {
            let chunk = match stop.run_until_cancelled(response.chunk()).await {
                Some(Ok(Some(chunk))) => chunk,
                Some(Ok(None)) => break Ok(()),
                Some(Err(error)) => break Err(error),
                None => break Ok(()),
            };
            if chunk.len() as u64 > range.end - range.start - buffer.len() as u64 {
                return Err(self.lied(&asked, "more bytes than that".to_owned()));
            }
            buffer.extend_from_slice(&chunk);
            if let Some(hasher) = &mut hasher {
                hasher.update(&chunk);
            }
            self.meter.add(chunk.len() as u64);
            if buffer.len() >= WRITE_BYTES {
                buffer = self.write(buffer, range).await?;
            }
            if range.start - noted >= self.settings.window_bytes {
                self.note(&mut noted, range.start).await?;
            }
        };
        self.write(buffer, range).await?;
        self.note(&mut noted, range.start).await?;
        match result {
            Err(source) => {
                let bytes = self.part.num_bytes();
                Err(DownloadError::Interrupted { file: self.file.to_owned(), bytes, source })
            }
            _ if !range.is_empty() && self.part.whole().total_bytes.is_some() && !stop.is_cancelled() => {
                Err(self.short())
            }
            _ => Ok(()),
        }
    }

    async fn write(&self, bytes: Vec<u8>, range: &mut Range<u64>) -> Result<Vec<u8>, DownloadError> {
        let (part, offset) = (self.part.clone(), range.start);
        range.start += bytes.len() as u64;
        self.blocking(move || {
            part.write(&bytes, offset)?;
            let mut buffer = bytes;
            buffer.clear();
            Ok(buffer)
        })
        .await
    }

    async fn note(&self, noted: &mut u64, end: u64) -> Result<(), DownloadError> {
        let (part, span) = (self.part.clone(), *noted..end);
        *noted = end;
        self.blocking(move || part.note(span)).await
    }

    /// Does disk work where it holds up no other stream.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, DownloadError> {
        let done = tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other);
        done.and_then(|result| result).map_err(|error| self.of_disk("write", error))
    }

    fn of_disk(&self, action: &'static str, error: std::io::Error) -> DownloadError {
        of_disk(action, self.file, self.part.path(), error)
    }

    fn short(&self) -> DownloadError {
        let total_bytes = self.part.whole().total_bytes.unwrap_or(0);
        DownloadError::Short { file: self.file.to_owned(), bytes: self.part.num_bytes(), total_bytes }
    }

    fn changed(&self) -> DownloadError {
        DownloadError::Changed { file: self.file.to_owned() }
    }

    fn lied(&self, range: &Range<u64>, found: String) -> DownloadError {
        let asked = format!("bytes {} to {}", range.start, range.end);
        DownloadError::Lied { file: self.file.to_owned(), asked, found }
    }
}

/// Into stretches, so that every stream has some and a connection that breaks leaves the others something to do.
fn cut(missing: Vec<Range<u64>>, settings: &Settings) -> VecDeque<Range<u64>> {
    let num_bytes: u64 = missing.iter().map(|gap| gap.end - gap.start).sum();
    let share = num_bytes.div_ceil(settings.streams.max(1) as u64);
    // whole pages of the page cache, so that all of them can be let go
    let most = share.min(settings.request_bytes).next_multiple_of(ALIGNMENT_BYTES);
    let pieces = |gap: Range<u64>| {
        let starts = std::iter::successors(Some(gap.start), move |at| Some((at + 1).next_multiple_of(most)));
        let starts = starts.take_while(move |at| *at < gap.end);
        starts.map(move |at| at..(at + 1).next_multiple_of(most).min(gap.end))
    };
    missing.into_iter().flat_map(pieces).collect()
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "one range is meant")]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_cut_into_stretches_that_cover_them() {
        const MIB: u64 = 1 << 20;
        let settings = Settings { streams: 4, request_bytes: 4 * MIB, ..Settings::default() };
        assert_eq!(cut(vec![0..3 * MIB], &settings), [0..MIB, MIB..2 * MIB, 2 * MIB..3 * MIB], "a share for each");
        let stretches = cut(vec![5..40 * MIB + 1], &settings);
        assert_eq!(stretches[0], 5..4 * MIB, "and from there on aligned");
        assert_eq!((stretches.len(), stretches[10].clone()), (11, 40 * MIB..40 * MIB + 1));
        assert!(stretches.iter().zip(stretches.iter().skip(1)).all(|(left, right)| left.end == right.start));
        assert_eq!(cut(vec![], &settings), []);
    }
}
