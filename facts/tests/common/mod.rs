//! A small hub on loopback whose files are heads with holes behind them, and which can lie.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "this is test code")]

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::get;
use kindling_agent::hub::Hub;
use kindling_facts::ModelSource;

/// A tiny checkpoint, or a file of it.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/models/tests/golden").join(name)
}

/// The first bytes of a file and its size; the rest is zeroes.
#[derive(Debug, Clone)]
pub struct RemoteFile {
    pub head: Vec<u8>,
    pub total_bytes: u64,
}

impl RemoteFile {
    pub fn whole(bytes: Vec<u8>) -> Self {
        Self { total_bytes: bytes.len() as u64, head: bytes }
    }

    fn bytes(&self, range: Range<u64>) -> Vec<u8> {
        let head = |at: u64| self.head.len().min(at as usize);
        let mut bytes = self.head[head(range.start)..head(range.end)].to_vec();
        bytes.resize((range.end - range.start) as usize, 0);
        bytes
    }
}

/// What is wrong with an answer for a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    Status(u16),
    /// So often, with this `retry-after`.
    Busy(usize, u64),
    /// Ignores the range, and says its length or not.
    Whole,
    /// `content-range` begins one byte later.
    OtherRange,
    /// `content-range` says that the file is shorter than the range.
    OtherTotal,
    NoRange,
    /// The connection ends before what `content-length` says.
    CutBody,
    /// The body is one byte shorter than `content-range` says, and `content-length` agrees with the body.
    ShortBody,
    LongBody,
    RedirectsForEver,
}

#[derive(Default)]
pub struct FakeHub {
    pub files: BTreeMap<String, RemoteFile>,
    pub flaws: Mutex<BTreeMap<String, Flaw>>,
    pub delay: Duration,
    /// Where files with weights are redirected to.
    storage: String,
    /// `METHOD file range`, of the hub and the storage behind it.
    pub requests: Mutex<Vec<String>>,
    in_flight: Mutex<(usize, usize)>,
}

impl FakeHub {
    pub fn with(files: impl IntoIterator<Item = (String, RemoteFile)>) -> Self {
        Self { files: files.into_iter().collect(), ..Self::default() }
    }

    /// All files of a folder.
    pub fn of(folder: &Path) -> Self {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
        Self::with(entries.map(|path| (name(&path), RemoteFile::whole(std::fs::read(&path).unwrap()))))
    }

    pub fn flawed(self, file: &str, flaw: Flaw) -> Self {
        self.flaws.lock().unwrap().insert(file.to_owned(), flaw);
        self
    }

    /// Most requests at a time.
    pub fn peak(&self) -> usize {
        self.in_flight.lock().unwrap().1
    }

    pub async fn start(mut self) -> (Arc<Self>, Hub) {
        let [front, behind] = [0; 2].map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let address = |listener: &std::net::TcpListener| format!("http://{}", listener.local_addr().unwrap());
        let (hub_url, storage_url) = (address(&front), address(&behind));
        self.storage = storage_url;
        let hub = Arc::new(self);
        let app = Router::new()
            .route("/api/models/{org}/{repo}/revision/{revision}", get(listing))
            .route("/{org}/{repo}/resolve/{revision}/{file}", get(resolve))
            .with_state(hub.clone());
        let storage = Router::new().route("/storage/{file}", get(content)).with_state(hub.clone());
        for (listener, app) in [(front, app), (behind, storage)] {
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            tokio::spawn(async move { axum::serve(listener, app).await });
        }
        (hub, Hub::new(&hub_url, Some("token".to_owned())))
    }

    pub fn url(&self, file: &str) -> String {
        format!("{}/storage/{file}", self.storage)
    }

    fn flaw(&self, file: &str) -> Option<Flaw> {
        let mut flaws = self.flaws.lock().unwrap();
        match flaws.get_mut(file) {
            Some(Flaw::Busy(0, _)) => None,
            Some(Flaw::Busy(left, seconds)) => {
                *left -= 1;
                Some(Flaw::Busy(*left, *seconds))
            }
            flaw => flaw.copied(),
        }
    }

    /// Notes a request and takes as long as the way there and back.
    async fn travel(&self, what: String) {
        self.requests.lock().unwrap().push(what);
        {
            let mut in_flight = self.in_flight.lock().unwrap();
            in_flight.0 += 1;
            in_flight.1 = in_flight.1.max(in_flight.0);
        }
        tokio::time::sleep(self.delay).await;
        self.in_flight.lock().unwrap().0 -= 1;
    }
}

fn status(code: u16) -> Response {
    Response::builder().status(code).body(Body::empty()).unwrap()
}

fn busy(seconds: u64) -> Response {
    Response::builder().status(429).header("retry-after", seconds).body(Body::empty()).unwrap()
}

async fn listing(State(hub): State<Arc<FakeHub>>) -> Response {
    hub.travel("listing".to_owned()).await;
    match hub.flaw("listing") {
        Some(Flaw::Status(code)) => return status(code),
        Some(Flaw::Busy(_, seconds)) => return busy(seconds),
        _ => {}
    }
    let names: Vec<_> = hub.files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
    Response::new(Body::from(serde_json::json!({ "siblings": names }).to_string()))
}

async fn resolve(
    State(hub): State<Arc<FakeHub>>,
    UrlPath((_, _, _, file)): UrlPath<(String, String, String, String)>,
    headers: HeaderMap,
) -> Response {
    assert!(headers.contains_key("authorization"), "the hub wants its token");
    if file.ends_with(".json") {
        return answer(&hub, &file, &headers).await;
    }
    hub.travel(format!("redirect {file}")).await;
    let target = if hub.flaw(&file) == Some(Flaw::RedirectsForEver) { file.clone() } else { hub.url(&file) };
    Response::builder().status(302).header("location", target).body(Body::empty()).unwrap()
}

async fn content(State(hub): State<Arc<FakeHub>>, UrlPath(file): UrlPath<String>, headers: HeaderMap) -> Response {
    assert!(!headers.contains_key("authorization"), "the token is not for the storage");
    answer(&hub, &file, &headers).await
}

async fn answer(hub: &FakeHub, name: &str, headers: &HeaderMap) -> Response {
    let range = headers.get("range").map_or("", |range| range.to_str().unwrap());
    hub.travel(format!("{name} {range}")).await;
    let Some(file) = hub.files.get(name) else { return status(404) };
    let flaw = hub.flaw(name);
    match flaw {
        Some(Flaw::Status(code)) => return status(code),
        Some(Flaw::Busy(_, seconds)) => {
            return busy(seconds);
        }
        Some(Flaw::Whole) => {
            let length = Response::builder().header("content-length", file.total_bytes);
            let zeroes = futures::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![0u8; 1 << 16]));
            let small = file.total_bytes < 1 << 24;
            let body = if small { Body::from(file.bytes(0..file.total_bytes)) } else { Body::from_stream(zeroes) };
            return length.body(body).unwrap();
        }
        _ => {}
    }
    let (first, last) = range.trim_start_matches("bytes=").split_once('-').unwrap();
    let first: u64 = first.parse().unwrap();
    let end = last.parse::<u64>().map_or(file.total_bytes, |last| last + 1).min(file.total_bytes);
    if first >= end {
        return status(416);
    }
    partial(file, first..end, flaw)
}

fn partial(file: &RemoteFile, range: Range<u64>, flaw: Option<Flaw>) -> Response {
    let (mut first, mut total) = (range.start, file.total_bytes);
    let mut bytes = file.bytes(range.clone());
    let announced = bytes.len();
    match flaw {
        Some(Flaw::OtherRange) => first += 1,
        Some(Flaw::OtherTotal) => total = range.end - 1,
        Some(Flaw::ShortBody) => drop(bytes.pop()),
        Some(Flaw::LongBody) => bytes.push(0),
        _ => {}
    }
    let builder = Response::builder().status(StatusCode::PARTIAL_CONTENT);
    let builder = match flaw {
        Some(Flaw::NoRange) => builder,
        _ => builder.header("content-range", format!("bytes {first}-{}/{total}", range.end - 1)),
    };
    if flaw != Some(Flaw::CutBody) {
        return builder.body(Body::from(bytes)).unwrap();
    }
    bytes.truncate(announced / 2);
    let parts = [Ok(bytes), Err(std::io::Error::other("cut"))];
    let body = futures::stream::unfold(parts.into_iter(), move |mut parts| async move {
        let part = parts.next()?;
        if part.is_err() {
            // The first bytes must be on the wire before the connection is cut.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Some((part, parts))
    });
    builder.header("content-length", announced).body(Body::from_stream(body)).unwrap()
}

/// A repository on that hub.
pub fn repository(files: &[&str]) -> ModelSource {
    let source = "hf:org/repo@main".parse().unwrap();
    ModelSource::Hub { source, files: files.iter().map(|file| (*file).to_owned()).collect() }
}

/// The head of a safetensors file of these tensors, one after the other: name, type, shape.
pub fn safetensors(tensors: &[(String, &str, Vec<u64>)]) -> RemoteFile {
    let mut offset = 0;
    let mut entries = serde_json::Map::new();
    for (name, dtype, shape) in tensors {
        let element = match *dtype {
            "F32" => 4,
            "BF16" | "F16" => 2,
            _ => 1,
        };
        let end = offset + shape.iter().product::<u64>() * element;
        let entry = serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": [offset, end] });
        entries.insert(name.clone(), entry);
        offset = end;
    }
    let json = serde_json::to_vec(&entries).unwrap();
    let head = [&(json.len() as u64).to_le_bytes()[..], &json].concat();
    RemoteFile { total_bytes: head.len() as u64 + offset, head }
}
