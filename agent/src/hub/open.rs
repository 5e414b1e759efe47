//! Opens a file of a hub to be downloaded: what the hub says of it, where it lies, and bytes of it as they come.
//!
//! Redirects are followed by hand: the digest and the commit are on the hub's own answers, and the storage behind them
//! has etags of its own that look like digests. The token stays with the hub.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Duration;

use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, IF_RANGE, LOCATION, RANGE, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url};

use super::ranges::content_range;
use super::{Hub, HubError, RemoteFile, refused};
use crate::source::HubSource;

/// How often a file may be redirected: the hub sends to its storage at once, a renamed repository once more.
const MAX_HOPS: usize = 8;
/// How often a busy server is asked again.
const MAX_RETRIES: usize = 3;
/// A longer pause than this is the caller's to wait for.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// Where a busy server does not say when.
const DEFAULT_PAUSE: Duration = Duration::from_secs(1);

/// How a file is asked for.
#[derive(Debug, Default)]
pub(super) struct Question<'a> {
    range: Option<String>,
    if_range: Option<&'a str>,
    /// Only what the hub says is wanted, not what its storage has.
    is_of_the_hub_alone: bool,
}

/// What is known of a file without reading it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stated {
    /// The digest of a file in large-file storage. Only the hub's own word on it counts.
    pub(crate) sha256: Option<String>,
    /// Its size.
    pub(crate) total_bytes: Option<u64>,
    /// Which version of the file this is: what the hub calls it (its digest, else the commit), else the server's
    /// strong etag.
    pub(crate) version: Option<String>,
    /// To be sent along with a range, so that another version is not mixed in: where no digest pins the content.
    pub(crate) if_range: Option<String>,
}

/// A file that begins to arrive.
#[derive(Debug)]
pub(crate) struct Opened {
    /// Status 200 or 206; its body is the file, or the bytes that were asked for.
    pub(crate) response: Response,
    /// As of this answer.
    pub(crate) stated: Stated,
}

/// What the hub itself (not its storage) said about a file.
#[derive(Debug, Default)]
pub(super) struct Words {
    linked_etag: Option<String>,
    linked_bytes: Option<u64>,
    commit: Option<String>,
}

impl<'a> Question<'a> {
    pub(super) fn of_range(range: &Range<u64>) -> Self {
        let range = format!("bytes={}-{}", range.start, range.end.max(range.start + 1) - 1);
        Self { range: Some(range), ..Self::default() }
    }
}

impl Hub {
    /// What is known of a file; its content is left where it is. Says no where the hub does not let us read it.
    pub(crate) async fn stated(&self, source: &HubSource, file: &str) -> Result<Stated, HubError> {
        let first_byte = Question { is_of_the_hub_alone: true, ..Question::of_range(&(0..1)) };
        let (response, words) = self.follow(&self.file(source, file), &first_byte).await?;
        match response.status() {
            status if status.is_success() || status.is_redirection() => {}
            StatusCode::RANGE_NOT_SATISFIABLE => {} // it is empty
            status => return Err(refused(&format!("{source} {file}"), response.url().as_str(), status)),
        }
        Ok(words.stated(&response))
    }

    /// Starts reading a file, or a range of it. With `if_range`, another version than that is sent whole.
    pub(crate) async fn open(
        &self,
        source: &HubSource,
        file: &str,
        range: Option<&Range<u64>>,
        if_range: Option<&str>,
    ) -> Result<Opened, HubError> {
        let question = range.map(Question::of_range).unwrap_or_default();
        let question = Question { if_range: if_range.filter(|_| range.is_some()), ..question };
        let (response, words) = self.follow(&self.file(source, file), &question).await?;
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(Opened { stated: words.stated(&response), response }),
            status => Err(refused(&format!("{source} {file}"), response.url().as_str(), status)),
        }
    }

    /// Asks for a file, or a range of it; waits a little for a server that is busy, and asks again.
    pub(super) async fn follow(
        &self,
        file: &RemoteFile,
        question: &Question<'_>,
    ) -> Result<(Response, Words), HubError> {
        for _ in 0..=MAX_RETRIES {
            let (response, words) = self.ask(file, question).await?;
            if !matches!(response.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
                return Ok((response, words));
            }
            let seconds = retry_after(response.headers());
            let pause = seconds.map_or(DEFAULT_PAUSE, Duration::from_secs);
            if pause > MAX_PAUSE {
                return Err(HubError::Busy { source_name: file.source_name.clone(), seconds });
            }
            tokio::time::sleep(pause).await;
        }
        Err(HubError::Busy { source_name: file.source_name.clone(), seconds: None })
    }

    /// Asks until something answers that is no redirect.
    async fn ask(&self, file: &RemoteFile, question: &Question<'_>) -> Result<(Response, Words), HubError> {
        let (name, mut url) = (&file.source_name, file.url.clone());
        let home = Url::parse(&url).ok().map(|url| url.origin());
        let mut words = Words::default();
        for _ in 0..MAX_HOPS {
            let is_home = Url::parse(&url).ok().map(|url| url.origin()) == home;
            let mut request = self.client.get(&url);
            if let Some(token) = self.token.as_ref().filter(|_| is_home && file.is_of_hub) {
                request = request.bearer_auth(token);
            }
            if let Some(range) = &question.range {
                request = request.header(RANGE, range);
            }
            if let Some(if_range) = question.if_range {
                request = request.header(IF_RANGE, if_range);
            }
            self.traffic.requests.fetch_add(1, Ordering::Relaxed);
            let response = request.send().await.map_err(|cause| self.unreachable(name, &url, cause))?;
            if is_home {
                words.read(response.headers());
            }
            let is_enough = question.is_of_the_hub_alone && words.are_enough();
            if !response.status().is_redirection() || is_enough {
                return Ok((response, words));
            }
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            match location.and_then(|location| response.url().join(location).ok()) {
                Some(next) => url = next.into(),
                None => return Err(refused(name, &url, response.status())),
            }
        }
        Err(refused(name, &url, StatusCode::LOOP_DETECTED))
    }
}

impl Words {
    /// The first word on each counts: a renamed repository is redirected within the hub first.
    fn read(&mut self, headers: &HeaderMap) {
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        self.linked_etag = self.linked_etag.take().or_else(|| header("x-linked-etag"));
        self.linked_bytes = self.linked_bytes.or_else(|| header("x-linked-size")?.parse().ok());
        self.commit = self.commit.take().or_else(|| header("x-repo-commit"));
    }

    /// Whether the storage has nothing to add.
    fn are_enough(&self) -> bool {
        self.linked_bytes.is_some() && self.linked_etag.as_deref().and_then(sha256_of).is_some()
    }

    fn stated(self, response: &Response) -> Stated {
        let sha256 = self.linked_etag.as_deref().and_then(sha256_of);
        let etag = header(response, ETAG).filter(|etag| etag.starts_with('"') && etag.len() > 2);
        let if_range = etag.clone().filter(|_| sha256.is_none());
        let version = self.linked_etag.or(self.commit).or_else(|| Some(format!("etag {}", etag?)));
        Stated { sha256, total_bytes: self.linked_bytes.or_else(|| size_of(response)), version, if_range }
    }
}

/// The size of the whole file, as far as an answer tells it.
fn size_of(response: &Response) -> Option<u64> {
    let range = header(response, CONTENT_RANGE);
    match response.status() {
        StatusCode::OK => header(response, CONTENT_LENGTH)?.parse().ok(),
        StatusCode::PARTIAL_CONTENT => content_range(&range?).map(|(_, _, total)| total),
        StatusCode::RANGE_NOT_SATISFIABLE => range?.strip_prefix("bytes */")?.parse().ok(),
        _ => None,
    }
}

fn header(response: &Response, name: reqwest::header::HeaderName) -> Option<String> {
    response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// The digest of a file in large-file storage: a linked etag of 64 hex digits.
fn sha256_of(linked_etag: &str) -> Option<String> {
    let etag = linked_etag.trim_start_matches("W/").trim_matches('"').to_ascii_lowercase();
    (etag.len() == 64 && etag.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(etag)
}

/// Seconds; a date is as good as nothing.
fn retry_after(headers: &HeaderMap) -> Option<u64> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()
}
