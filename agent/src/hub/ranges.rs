//! Some bytes of a file on the network: what a head is read with, before anybody downloads the rest.
//!
//! Servers are not believed: the range of the answer, the size of the file and the length of the body must agree with
//! what was asked and with each other.

use std::ops::Range;
use std::sync::atomic::Ordering;

use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode, Url};

use super::open::Question;
use super::{Hub, HubError, deepest, refused};
use crate::source::{HubSource, SourceError};

/// A file of a server without ranges is read whole up to this size, and cut here.
const MAX_WHOLE_BYTES: u64 = 8 << 20;
/// Where a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    /// What it is called in messages.
    pub(super) source_name: String,
    pub(super) url: String,
    /// Whether the hub's token is for it.
    pub(super) is_of_hub: bool,
}

/// Bytes of a file, and how many it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// As asked, or up to the end of the file.
    pub bytes: Vec<u8>,
    /// Size of the whole file.
    pub total_bytes: u64,
}

/// Why bytes of a file could not be had.
#[derive(Debug, thiserror::Error)]
pub enum RangeError {
    /// Not found, not allowed, not reached.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// It sends files whole.
    #[error(
        "{file}: the server does not answer requests for a part of a file, and the whole of it is {}; \
         download it and give its path",
        size(*num_bytes)
    )]
    NoRanges {
        /// What was asked for.
        file: String,
        /// Size of the file, if it said so.
        num_bytes: Option<u64>,
    },
    /// The answer is not what was asked for, or not what it says it is.
    #[error("{file}: the server answered a request for bytes {} to {} with {found}", range.start, range.end)]
    Lied {
        /// What was asked for.
        file: String,
        /// Which bytes; the end is the first that was not asked for.
        range: Range<u64>,
        /// What came.
        found: String,
    },
    /// The file is not what anybody needs whole.
    #[error("{file} has {num_bytes} bytes, at most {max_bytes} are read")]
    TooLarge {
        /// Which file.
        file: String,
        /// Its size.
        num_bytes: u64,
        /// The bound.
        max_bytes: u64,
    },
}

fn size(num_bytes: Option<u64>) -> String {
    num_bytes.map_or_else(|| "of unknown size".to_owned(), |bytes| format!("{bytes} bytes"))
}

impl Hub {
    /// A file of a repository.
    pub fn file(&self, source: &HubSource, file: &str) -> RemoteFile {
        let url = format!("{}/{}/resolve/{}/{file}", self.endpoint, source.repo(), source.revision());
        RemoteFile { source_name: format!("{source} {file}"), url, is_of_hub: true }
    }

    /// A file anywhere; no token is sent for it.
    ///
    /// # Errors
    /// [`SourceError::Url`] if it is no address of HTTP.
    pub fn url(&self, text: &str) -> Result<RemoteFile, SourceError> {
        let wrong = || SourceError::Url { text: text.to_owned() };
        let url = Url::parse(text).map_err(|_| wrong())?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(wrong());
        }
        // Signatures in the query are nobody's business.
        let source_name = text.split('?').next().unwrap_or(text).to_owned();
        Ok(RemoteFile { source_name, url: url.into(), is_of_hub: false })
    }

    /// Reads a small file whole.
    ///
    /// # Errors
    /// As [`Hub::read_range`], or [`RangeError::TooLarge`].
    pub async fn read_small(&self, file: &RemoteFile, max_bytes: u64) -> Result<Vec<u8>, RangeError> {
        let part = self.read_range(file, 0..max_bytes).await?;
        if part.total_bytes > max_bytes {
            let (file, num_bytes) = (file.source_name.clone(), part.total_bytes);
            return Err(RangeError::TooLarge { file, num_bytes, max_bytes });
        }
        Ok(part.bytes)
    }

    /// Reads some bytes of a file, fewer where it ends. Waits a little for a server that is busy.
    ///
    /// # Errors
    /// [`RangeError`] naming the file.
    pub async fn read_range(&self, file: &RemoteFile, range: Range<u64>) -> Result<Part, RangeError> {
        let (response, _) = self.follow(file, &Question::of_range(&range)).await?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => self.partial(file, range, response).await,
            StatusCode::OK => self.whole(file, range, response).await,
            status => Err(refused(&file.source_name, response.url().as_str(), status).into()),
        }
    }

    /// The range of an answer must be what was asked, but for the end of the file.
    async fn partial(&self, file: &RemoteFile, range: Range<u64>, response: Response) -> Result<Part, RangeError> {
        let lied = |found| RangeError::Lied { file: file.source_name.clone(), range: range.clone(), found };
        let header = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let header = header.to_owned();
        let Some((first, last, total_bytes)) = content_range(&header) else {
            return Err(lied(format!("the content-range {header:?}")));
        };
        let expected = (range.start, range.end.min(total_bytes).saturating_sub(1));
        if (first, last) != expected {
            return Err(lied(format!("the content-range {header:?}")));
        }
        let bytes = self.body(response, last - first + 1).await.map_err(lied)?;
        Ok(Part { bytes, total_bytes })
    }

    /// An answer that ignores the range is taken if it is small.
    async fn whole(&self, file: &RemoteFile, range: Range<u64>, response: Response) -> Result<Part, RangeError> {
        let name = || file.source_name.clone();
        let Some(total_bytes) = response.content_length().filter(|bytes| *bytes <= MAX_WHOLE_BYTES) else {
            return Err(RangeError::NoRanges { file: name(), num_bytes: response.content_length() });
        };
        let lied = |found| RangeError::Lied { file: name(), range: range.clone(), found };
        let bytes = self.body(response, total_bytes).await.map_err(lied)?;
        let [start, end] = [range.start, range.end].map(|at| at.min(total_bytes) as usize);
        Ok(Part { bytes: bytes[start..end].to_vec(), total_bytes })
    }

    /// A body of exactly so many bytes, or what came instead.
    async fn body(&self, mut response: Response, expected: u64) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => {
                    self.traffic.bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                    bytes.extend_from_slice(&chunk);
                    if bytes.len() as u64 > expected {
                        return Err(format!("more than the {expected} bytes that it announced"));
                    }
                }
                Ok(None) if bytes.len() as u64 == expected => return Ok(bytes),
                Ok(None) => return Err(format!("{} of {expected} bytes", bytes.len())),
                Err(error) => return Err(format!("{} of {expected} bytes ({})", bytes.len(), deepest(&error))),
            }
        }
    }
}

/// `bytes FIRST-LAST/TOTAL`, where the range lies within the file.
pub(crate) fn content_range(header: &str) -> Option<(u64, u64, u64)> {
    let (range, total) = header.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, total) = (first.parse().ok()?, last.parse().ok()?, total.parse().ok()?);
    (first <= last && last < total).then_some((first, last, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_range_lies_within_its_file() {
        assert_eq!(content_range("bytes 0-9/10"), Some((0, 9, 10)));
        for header in ["", "bytes 0-9/*", "bytes */10", "bytes 5-4/10", "bytes 0-10/10", "0-9/10", "bytes -9/10"] {
            assert_eq!(content_range(header), None, "{header}");
        }
    }

    #[test]
    fn only_addresses_of_http_are_taken() {
        let hub = Hub::new("https://hub.example", None);
        for text in ["ftp://a/b", "http:", "file:///a", "a/b", "https://"] {
            assert!(hub.url(text).is_err(), "{text}");
        }
        let file = hub.url("https://a.example/m.gguf?signature=secret").expect("address");
        assert_eq!((file.source_name.as_str(), file.is_of_hub), ("https://a.example/m.gguf", false));
    }
}
