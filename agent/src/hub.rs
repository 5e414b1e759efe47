//! The Hugging Face hub over HTTP: which files a revision has, which of them a runtime needs.
//!
//! Own code rather than `hf-hub`: the cache's layout, progress and resuming are ours, and the two calls are small.

mod open;
mod ranges;
mod select;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{StatusCode, Url};
use serde::Deserialize;

use crate::source::HubSource;
use open::Question;
pub(crate) use open::{Opened, Stated};
pub(crate) use ranges::content_range;
pub use ranges::{Part, RangeError, RemoteFile};
use select::select;

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
        let (response, _) = self.follow(&place, &Question::default()).await?;
        if !response.status().is_success() {
            return Err(refused(&name, &url, response.status()));
        }
        let body = response.bytes().await.map_err(|cause| self.unreachable(&name, &url, cause))?;
        self.traffic.bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
        let listing: Listing =
            serde_json::from_slice(&body).map_err(|source| HubError::Listing { url: url.clone(), source })?;
        Ok(listing.siblings.into_iter().map(|sibling| sibling.rfilename).collect())
    }

    fn unreachable(&self, name: &str, url: &str, cause: reqwest::Error) -> HubError {
        let host = Url::parse(url).map(|url| url.origin().ascii_serialization());
        let endpoint = host.unwrap_or_else(|_| self.endpoint.clone());
        HubError::Unreachable { endpoint, source_name: name.to_owned(), cause }
    }
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
