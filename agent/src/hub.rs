//! The Hugging Face hub over HTTP: which files a revision has, which of them a runtime needs.
//!
//! Own code rather than `hf-hub`: the cache's layout, progress and resuming are ours, and the two calls are small.

mod ranges;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reqwest::header::{HeaderMap, LOCATION, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{StatusCode, Url};
use serde::Deserialize;

use crate::source::{HubSource, check_file_name};
pub use ranges::{Part, RangeError, RemoteFile};

/// How often a file may be redirected: the hub sends to its storage at once, a renamed repository once more.
const MAX_HOPS: usize = 8;
/// How often a busy server is asked again.
const MAX_RETRIES: usize = 3;
/// A longer pause than this is the user's to wait for.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// Where a busy server does not say when.
const DEFAULT_PAUSE: Duration = Duration::from_secs(1);

/// A hub and the token for it.
#[derive(Debug, Clone)]
pub struct Hub {
    endpoint: String,
    token: Option<String>,
    /// Follows no redirects: what the hub says about a file is on the redirect itself.
    client: reqwest::Client,
    traffic: Arc<Counters>,
}

/// Requests made, redirects included, and bytes of answers to listings and ranges.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Sent.
    pub requests: u64,
    /// Received, without their headers.
    pub bytes: u64,
}

#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    bytes: AtomicU64,
}

/// A file that begins to arrive, and what the hub itself (not its storage) said about it.
#[derive(Debug)]
pub(crate) struct Opened {
    /// Status 200 or 206; its body is the file.
    pub(crate) response: reqwest::Response,
    /// The digest of a file in large-file storage.
    pub(crate) sha256: Option<String>,
    /// The size of a file in large-file storage.
    pub(crate) total_bytes: Option<u64>,
    /// Which version of the file this is: its digest, else the commit.
    pub(crate) version: Option<String>,
}

#[derive(Default)]
struct Stated {
    linked_etag: Option<String>,
    linked_bytes: Option<u64>,
    commit: Option<String>,
}

/// Why the hub did not give what was asked.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// Nothing answered.
    #[error(
        "cannot reach {endpoint}: {}; import the files by hand with `kindling cache import FILE --as {source_name}`",
        deepest(cause)
    )]
    Unreachable {
        /// Address of the hub.
        endpoint: String,
        /// What was asked for.
        source_name: String,
        /// The failed request. Not a `source`: its innermost words are in the text, the others repeat the address.
        cause: reqwest::Error,
    },
    /// The hub refused.
    #[error("{source_name}: {reason} ({url} answered {status})")]
    Refused {
        /// What was asked for.
        source_name: String,
        /// In words.
        reason: &'static str,
        /// The address.
        url: String,
        /// HTTP status.
        status: u16,
    },
    /// The hub asked to come again later than anybody wants to wait, or more often than that.
    #[error("{source_name}: the server asks for fewer requests and to try again {}", after(*seconds))]
    Busy {
        /// What was asked for.
        source_name: String,
        /// When, if it said so.
        seconds: Option<u64>,
    },
    /// The answer was no listing.
    #[error("{url} answered with something that is no listing of a repository")]
    Listing {
        /// The address.
        url: String,
        /// Why it could not be understood.
        source: serde_json::Error,
    },
    /// The repository does not say by itself which files make the model.
    #[error("{source_name} holds {found}; name one under spec.source.hf.files (or with --file): {}", names.join(", "))]
    Ambiguous {
        /// What was asked for.
        source_name: String,
        /// What makes the choice impossible.
        found: String,
        /// The candidates.
        names: Vec<String>,
    },
    /// A file that was asked for is not in the repository.
    #[error("{source_name} has no file {file:?}; it holds: {}", names.join(", "))]
    NoSuchFile {
        /// What was asked for.
        source_name: String,
        /// The file.
        file: String,
        /// What there is.
        names: Vec<String>,
    },
}

#[derive(Deserialize)]
struct Listing {
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Hub {
    /// The hub that `HF_ENDPOINT` names (else Hugging Face's), with the token in `HF_TOKEN` if there is one.
    pub fn from_environment() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        Self::new(&endpoint, variable("HF_TOKEN"))
    }

    /// A hub at this address.
    pub fn new(endpoint: &str, token: Option<String>) -> Self {
        // Fails only if a provider is installed already, which is just as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .user_agent(concat!("kindling/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(15))
            .read_timeout(Duration::from_secs(60))
            .redirect(Policy::none())
            .build()
            .expect("a client of constant settings should build");
        Self { endpoint: endpoint.trim_end_matches('/').to_owned(), token, client, traffic: Arc::default() }
    }

    /// What was asked for so far, by this hub and its clones.
    pub fn traffic(&self) -> Traffic {
        let Counters { requests, bytes } = &*self.traffic;
        Traffic { requests: requests.load(Ordering::Relaxed), bytes: bytes.load(Ordering::Relaxed) }
    }

    /// The files that make the model: those asked for, else what the repository's kind implies.
    ///
    /// # Errors
    /// [`HubError`] if the hub cannot be reached, refuses, or leaves a choice to the user.
    pub async fn files(&self, source: &HubSource, asked: &[String]) -> Result<Vec<String>, HubError> {
        select(source, asked, self.list(source).await?)
    }

    /// All files of a revision.
    ///
    /// # Errors
    /// [`HubError`] if the hub cannot be reached, refuses, or answers with something else.
    pub async fn list(&self, source: &HubSource) -> Result<Vec<String>, HubError> {
        let url = format!("{}/api/models/{}/revision/{}", self.endpoint, source.repo(), source.revision());
        let name = source.to_string();
        let place = RemoteFile { source_name: name.clone(), url: url.clone(), is_of_hub: true };
        let (response, _) = self.follow(&place, None).await?;
        if !response.status().is_success() {
            return Err(refused(&name, &url, response.status()));
        }
        let body = response.bytes().await.map_err(|cause| self.unreachable(&name, &url, cause))?;
        self.traffic.bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
        let listing: Listing =
            serde_json::from_slice(&body).map_err(|source| HubError::Listing { url: url.clone(), source })?;
        Ok(listing.siblings.into_iter().map(|sibling| sibling.rfilename).collect())
    }

    /// Starts reading a file from an offset.
    pub(crate) async fn open(&self, source: &HubSource, file: &str, offset: u64) -> Result<Opened, HubError> {
        let range = (offset > 0).then(|| format!("bytes={offset}-"));
        let (response, stated) = self.follow(&self.file(source, file), range.as_deref()).await?;
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(stated.opened(response)),
            status => Err(refused(&source.to_string(), response.url().as_str(), status)),
        }
    }

    /// Asks for a file, or a range of it; waits a little for a server that is busy, and asks again.
    async fn follow(&self, file: &RemoteFile, range: Option<&str>) -> Result<(reqwest::Response, Stated), HubError> {
        for _ in 0..=MAX_RETRIES {
            let (response, stated) = self.ask(file, range).await?;
            if response.status() != StatusCode::TOO_MANY_REQUESTS {
                return Ok((response, stated));
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
    ///
    /// Redirects are followed by hand: the digest and the commit are on the hub's own answers, and the storage behind
    /// them has etags of its own that look like digests. The token stays with the hub.
    async fn ask(&self, file: &RemoteFile, range: Option<&str>) -> Result<(reqwest::Response, Stated), HubError> {
        let (name, mut url) = (&file.source_name, file.url.clone());
        let home = Url::parse(&url).ok().map(|url| url.origin());
        let mut stated = Stated::default();
        for _ in 0..MAX_HOPS {
            let is_home = Url::parse(&url).ok().map(|url| url.origin()) == home;
            let mut request = self.client.get(&url);
            if let Some(token) = self.token.as_ref().filter(|_| is_home && file.is_of_hub) {
                request = request.bearer_auth(token);
            }
            if let Some(range) = range {
                request = request.header("range", range);
            }
            self.traffic.requests.fetch_add(1, Ordering::Relaxed);
            let response = request.send().await.map_err(|cause| self.unreachable(name, &url, cause))?;
            if is_home {
                stated.read(response.headers());
            }
            if !response.status().is_redirection() {
                return Ok((response, stated));
            }
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            match location.and_then(|location| response.url().join(location).ok()) {
                Some(next) => url = next.into(),
                None => return Err(refused(name, &url, response.status())),
            }
        }
        Err(refused(name, &url, StatusCode::LOOP_DETECTED))
    }

    fn unreachable(&self, name: &str, url: &str, cause: reqwest::Error) -> HubError {
        let host = Url::parse(url).map(|url| url.origin().ascii_serialization());
        let endpoint = host.unwrap_or_else(|_| self.endpoint.clone());
        HubError::Unreachable { endpoint, source_name: name.to_owned(), cause }
    }
}

impl Stated {
    /// The first word on each counts: a renamed repository is redirected within the hub first.
    fn read(&mut self, headers: &HeaderMap) {
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        self.linked_etag = self.linked_etag.take().or_else(|| header("x-linked-etag"));
        self.linked_bytes = self.linked_bytes.or_else(|| header("x-linked-size")?.parse().ok());
        self.commit = self.commit.take().or_else(|| header("x-repo-commit"));
    }

    fn opened(self, response: reqwest::Response) -> Opened {
        let sha256 = self.linked_etag.as_deref().and_then(sha256_of);
        let version = self.linked_etag.or(self.commit);
        Opened { response, sha256, total_bytes: self.linked_bytes, version }
    }
}

/// The digest of a file in large-file storage: a linked etag of 64 hex digits.
fn sha256_of(linked_etag: &str) -> Option<String> {
    let etag = linked_etag.trim_start_matches("W/").trim_matches('"').to_ascii_lowercase();
    (etag.len() == 64 && etag.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(etag)
}

fn refused(name: &str, url: &str, status: StatusCode) -> HubError {
    let reason = match status.as_u16() {
        401 | 403 => {
            "no access: the repository is private, gated or misspelt; a token that may read it goes into HF_TOKEN, \
             in the environment of the process that downloads"
        }
        404 => "no such repository, revision or file",
        300..=399 | 508 => "the hub redirects to nowhere",
        _ => "the hub failed",
    };
    // Addresses of the storage carry a signature in their query, which is nobody's business.
    let url = url.split('?').next().unwrap_or(url).to_owned();
    HubError::Refused { source_name: name.to_owned(), reason, url, status: status.as_u16() }
}

/// Chooses files: what was asked for; else safetensors with their companions; else the only GGUF.
fn select(source: &HubSource, asked: &[String], names: Vec<String>) -> Result<Vec<String>, HubError> {
    let source_name = source.to_string();
    // A listing is foreign data: names that could leave the folder are as good as absent.
    let names: Vec<String> = names.into_iter().filter(|name| check_file_name(name).is_ok()).collect();
    if !asked.is_empty() {
        return match asked.iter().find(|file| !names.contains(file)) {
            Some(file) => Err(HubError::NoSuchFile { source_name, file: file.clone(), names }),
            None => Ok(asked.to_vec()),
        };
    }
    if names.iter().any(|name| name == "config.json") && names.iter().any(|name| is_shard(name)) {
        return Ok(names.into_iter().filter(|name| is_shard(name) || is_companion(name)).collect());
    }
    let ggufs: Vec<String> = names.iter().filter(|name| name.ends_with(".gguf")).cloned().collect();
    match ggufs.len() {
        1 => Ok(ggufs),
        0 => Err(HubError::Ambiguous { source_name, found: "neither safetensors nor GGUF files".to_owned(), names }),
        count => Err(HubError::Ambiguous { source_name, found: format!("{count} GGUF files"), names: ggufs }),
    }
}

fn is_shard(name: &str) -> bool {
    !name.contains('/') && name.ends_with(".safetensors")
}

fn is_companion(name: &str) -> bool {
    matches!(
        name,
        "config.json"
            | "generation_config.json"
            | "hf_quant_config.json"
            | "model.safetensors.index.json"
            | "tokenizer.json"
            | "tokenizer_config.json"
            | "special_tokens_map.json"
            | "chat_template.jinja"
            | "chat_template.json"
    )
}

/// Seconds; a date is as good as nothing.
fn retry_after(headers: &HeaderMap) -> Option<u64> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()
}

fn after(seconds: Option<u64>) -> String {
    seconds.map_or_else(|| "later".to_owned(), |seconds| format!("in {seconds} s"))
}

/// The innermost cause: the outer ones of an HTTP client only repeat the address.
fn deepest(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(asked: &[&str], names: &[&str]) -> Result<Vec<String>, String> {
        let source = "hf:org/repo".parse().expect("source");
        let own = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        select(&source, &own(asked), own(names)).map_err(|error| error.to_string())
    }

    #[test]
    fn safetensors_come_with_config_and_tokenizer_and_nothing_else() {
        let files = chosen(&[], &["config.json", "model.safetensors", "tokenizer.json", "README.md", "onnx/m.onnx"]);
        assert_eq!(files.expect("files"), ["config.json", "model.safetensors", "tokenizer.json"]);
    }

    #[test]
    fn several_ggufs_need_a_choice_and_the_error_lists_them() {
        let error = chosen(&[], &["a.Q4_0.gguf", "a.Q8_0.gguf"]).expect_err("ambiguous");
        assert!(error.contains("2 GGUF files") && error.contains("a.Q4_0.gguf, a.Q8_0.gguf"), "{error}");
        assert_eq!(chosen(&["a.Q8_0.gguf"], &["a.Q4_0.gguf", "a.Q8_0.gguf"]).expect("asked"), ["a.Q8_0.gguf"]);
    }

    #[test]
    fn a_listing_cannot_name_files_outside_the_folder() {
        let error = chosen(&[], &["../../etc/model.gguf"]).expect_err("nothing left");
        assert!(error.contains("neither safetensors nor GGUF"), "{error}");
    }
}
