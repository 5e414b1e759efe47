//! A server that behaves like a hub and the storage behind it, and misbehaves where a test wants it to. It counts what
//! it is asked and what it sends. It knows nothing of Kindling: the stories on a cluster have it too.
#![allow(dead_code, missing_docs, clippy::unwrap_used, reason = "each test uses some of it; it may panic")]

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use futures::StreamExt;
use sha2::{Digest, Sha256};

pub const FILE: &str = "model.gguf";
pub const MIB: usize = 1 << 20;
/// Of one piece of a body.
const PIECE: usize = 64 << 10;

/// How the storage answers.
#[derive(Clone)]
pub struct Ways {
    pub ranges: bool,
    /// Whether the hub says the digest and the size, and what digest if not the true one.
    pub states_digest: bool,
    pub wrong_digest: Option<String>,
    pub commit: Option<String>,
    pub etag: Option<String>,
    /// Whether the hub redirects to a storage at another address, as it does for large files.
    pub redirects: bool,
    /// Bodies of more than so many bytes are cut after so many, so many times.
    pub cuts: Option<(usize, usize)>,
    /// Answers so many requests for content with this status, and perhaps with `retry-after`.
    pub refuses: (usize, u16, Option<u64>),
    /// `content-range` names another range than that of the body.
    pub lies_about_range: bool,
    /// Bodies are so many bytes shorter than the range, and `content-length` agrees.
    pub shorter_by: usize,
    /// Between two pieces of a body.
    pub pause: Duration,
    /// The hub states another digest each time.
    pub churns: bool,
}

impl Default for Ways {
    fn default() -> Self {
        Self {
            ranges: true,
            states_digest: true,
            wrong_digest: None,
            commit: Some("1".repeat(40)),
            etag: Some("\"storage\"".to_owned()),
            redirects: true,
            cuts: None,
            refuses: (0, 0, None),
            lies_about_range: false,
            shorter_by: 0,
            pause: Duration::ZERO,
            churns: false,
        }
    }
}

/// One request for content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub repo: String,
    /// As in the header; empty without one.
    pub range: String,
    pub if_range: Option<String>,
    pub has_token: bool,
}

pub struct Server {
    pub ways: Mutex<Ways>,
    /// What comes after so many requests for content.
    pub later: Mutex<Option<(usize, Ways, Bytes)>>,
    /// And its digest.
    content: Mutex<(Bytes, String)>,
    /// What was there earlier, by digest: a storage keeps what its addresses name.
    earlier: Mutex<BTreeMap<String, Bytes>>,
    /// Requests for content, of the storage or of a hub that does not redirect; without questions for one byte.
    pub asked: Mutex<Vec<Asked>>,
    /// Questions to the hub about a file: whether they had the token.
    pub tokens_at_hub: Mutex<Vec<bool>>,
    pub listings: AtomicU64,
    /// Bytes of content that were put on the wire.
    pub sent: AtomicU64,
    pub most_at_once: AtomicU64,
    now: AtomicU64,
    storage: String,
    pub address: String,
}

impl Server {
    pub async fn start(content: impl Into<Bytes>, ways: Ways) -> Arc<Self> {
        Self::start_on([0; 2].map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()), content, ways).await
    }

    /// The hub listens on the first, its storage on the second.
    pub async fn start_on(listeners: [std::net::TcpListener; 2], content: impl Into<Bytes>, ways: Ways) -> Arc<Self> {
        let [hub, storage] = listeners;
        let server = Arc::new(Self {
            ways: Mutex::new(ways),
            later: Mutex::default(),
            content: Mutex::new(with_digest(content.into())),
            earlier: Mutex::default(),
            asked: Mutex::default(),
            tokens_at_hub: Mutex::default(),
            listings: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            most_at_once: AtomicU64::new(0),
            now: AtomicU64::new(0),
            storage: format!("http://{}/storage", storage.local_addr().unwrap()),
            address: format!("http://{}", hub.local_addr().unwrap()),
        });
        let app = Router::new()
            .route("/api/models/{org}/{repo}/revision/{revision}", get(listing))
            .route("/{org}/{repo}/resolve/{revision}/{file}", get(resolve))
            .with_state(server.clone());
        let behind = Router::new().route("/storage/{org}/{repo}", get(content_of)).with_state(server.clone());
        for (listener, app) in [(hub, app), (storage, behind)] {
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            tokio::spawn(async move { axum::serve(listener, app).await });
        }
        server
    }

    pub fn content(&self) -> Bytes {
        self.content.lock().unwrap().0.clone()
    }

    pub fn set(&self, content: impl Into<Bytes>, ways: Ways) {
        let (before, digest) = std::mem::replace(&mut *self.content.lock().unwrap(), with_digest(content.into()));
        self.earlier.lock().unwrap().insert(digest, before);
        *self.ways.lock().unwrap() = ways;
    }

    pub fn change(&self, change: impl FnOnce(&mut Ways)) {
        change(&mut self.ways.lock().unwrap());
    }

    pub fn ranges(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().map(|asked| asked.range.clone()).collect()
    }

    /// Forgets what it was asked so far; says how much it had sent.
    pub fn reset(&self) -> u64 {
        self.asked.lock().unwrap().clear();
        self.sent.swap(0, Ordering::SeqCst)
    }

    /// Sum of the ranges that it was asked for.
    pub fn asked_bytes(&self) -> u64 {
        let length = self.content().len();
        self.ranges().iter().map(|range| parse(range, length).len() as u64).sum()
    }
}

pub fn parse(range: &str, length: usize) -> Range<usize> {
    let Some((first, last)) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return 0..length;
    };
    first.parse().unwrap()..last.parse::<usize>().map_or(length, |last| last + 1).min(length)
}

fn status(code: u16) -> Response {
    Response::builder().status(code).body(Body::empty()).unwrap()
}

async fn listing(State(server): State<Arc<Server>>, Path((org, ..)): Path<(String, String, String)>) -> Response {
    server.listings.fetch_add(1, Ordering::SeqCst);
    match org.as_str() {
        "gated" => status(401),
        "forbidden" => status(403),
        "missing" => status(404),
        _ => {
            let names = format!(r#"{{"siblings":[{{"rfilename":"{FILE}"}},{{"rfilename":"README.md"}}]}}"#);
            Response::new(Body::from(names))
        }
    }
}

async fn resolve(
    State(server): State<Arc<Server>>,
    Path((org, repo, _, _)): Path<(String, String, String, String)>,
    headers: HeaderMap,
) -> Response {
    server.tokens_at_hub.lock().unwrap().push(headers.contains_key("authorization"));
    if org == "gated-files" {
        return status(403);
    }
    let ways = server.ways.lock().unwrap().clone();
    let mut response = match ways.redirects {
        true => {
            let digest = if ways.states_digest { server.content.lock().unwrap().1.clone() } else { String::new() };
            let location = format!("{}/{org}/{repo}?signature=secret&digest={digest}", server.storage);
            Response::builder().status(302).header("location", location).body(Body::empty()).unwrap()
        }
        false => answer(&server, &format!("{org}/{repo}"), &headers, "").await,
    };
    let mut state = |name: &'static str, value: String| response.headers_mut().insert(name, value.parse().unwrap());
    if ways.states_digest {
        let (content, mut digest) = server.content.lock().unwrap().clone();
        if ways.churns {
            digest = format!("{:064x}", server.tokens_at_hub.lock().unwrap().len());
        }
        state("x-linked-etag", format!("\"{}\"", ways.wrong_digest.unwrap_or(digest)));
        state("x-linked-size", content.len().to_string());
    }
    if let Some(commit) = ways.commit {
        state("x-repo-commit", commit);
    }
    response
}

async fn content_of(
    State(server): State<Arc<Server>>,
    Path((org, repo)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let query = query.unwrap_or_default();
    let digest = query.rsplit_once("digest=").map_or("", |(_, digest)| digest);
    answer(&server, &format!("{org}/{repo}"), &headers, digest).await
}

/// A digest names the content, also when another one stands there by now.
async fn answer(server: &Arc<Server>, repo: &str, headers: &HeaderMap, digest: &str) -> Response {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let range = text("range").unwrap_or_default();
    let is_question = range == "bytes=0-0";
    if !is_question {
        let has_token = headers.contains_key("authorization");
        let asked = Asked { repo: repo.to_owned(), range: range.clone(), if_range: text("if-range"), has_token };
        let num_asked = {
            let mut all = server.asked.lock().unwrap();
            all.push(asked);
            all.len()
        };
        let later = server.later.lock().unwrap().take_if(|(after, ..)| num_asked > *after);
        if let Some((_, ways, content)) = later {
            server.set(content, ways);
        }
        let mut ways = server.ways.lock().unwrap();
        if ways.refuses.0 > 0 {
            ways.refuses.0 -= 1;
            let mut refusal = status(ways.refuses.1);
            if let Some(seconds) = ways.refuses.2 {
                refusal.headers_mut().insert("retry-after", seconds.into());
            }
            return refusal;
        }
    }
    let ways = server.ways.lock().unwrap().clone();
    let earlier = server.earlier.lock().unwrap().get(digest).cloned();
    let content = earlier.unwrap_or_else(|| server.content());
    let is_other = text("if-range").is_some_and(|etag| ways.etag.as_ref() != Some(&etag));
    let wanted = if range.is_empty() || !ways.ranges || is_other { None } else { Some(parse(&range, content.len())) };
    send(server, &ways, &content, wanted, is_question)
}

fn send(
    server: &Arc<Server>,
    ways: &Ways,
    content: &Bytes,
    wanted: Option<Range<usize>>,
    is_question: bool,
) -> Response {
    let mut builder = Response::builder();
    if let Some(etag) = &ways.etag {
        builder = builder.header("etag", etag);
    }
    let total = content.len();
    let range = wanted.clone().unwrap_or(0..total);
    if range.start >= range.end && wanted.is_some() {
        return builder.status(416).header("content-range", format!("bytes */{total}")).body(Body::empty()).unwrap();
    }
    if wanted.is_some() {
        let first = range.start + usize::from(ways.lies_about_range && !is_question);
        builder = builder.status(206).header("content-range", format!("bytes {first}-{}/{total}", range.end - 1));
    }
    if is_question {
        return builder.body(Body::from(content.slice(range))).unwrap();
    }
    let range = range.start..range.end - ways.shorter_by.min(range.len());
    let cut = {
        let mut now = server.ways.lock().unwrap();
        now.cuts.as_mut().filter(|(after, times)| *times > 0 && *after < range.len()).map(|(after, times)| {
            *times -= 1;
            *after
        })
    };
    builder = builder.header("content-length", range.len());
    let until = cut.map_or(range.end, |after| range.end.min(range.start + after));
    let mut pieces: Vec<_> =
        (range.start..until).step_by(PIECE).map(|at| Ok(content.slice(at..until.min(at + PIECE)))).collect();
    if until < range.end {
        pieces.push(Err(std::io::Error::other("cut")));
    }
    let now = server.now.fetch_add(1, Ordering::SeqCst) + 1;
    server.most_at_once.fetch_max(now, Ordering::SeqCst);
    let open = Open(server.clone());
    let pause = ways.pause;
    let stream = futures::stream::iter(pieces).then(move |piece: Result<Bytes, std::io::Error>| {
        let server = open.0.clone();
        async move {
            match &piece {
                Ok(piece) => drop(server.sent.fetch_add(piece.len() as u64, Ordering::SeqCst)),
                // the head and the first bytes must be on the wire before the connection is cut
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
            tokio::time::sleep(pause).await;
            piece
        }
    });
    builder.body(Body::from_stream(stream)).unwrap()
}

/// Counts the bodies that are under way.
struct Open(Arc<Server>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Bytes that say where they are, so that a mistake in the order shows.
pub fn content(length: usize) -> Bytes {
    let words = (0..length.div_ceil(8) as u64).flat_map(|at| at.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    words.take(length).collect::<Vec<u8>>().into()
}

pub fn digest(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn with_digest(content: Bytes) -> (Bytes, String) {
    let digest = digest(&content);
    (content, digest)
}
