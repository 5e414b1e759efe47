//! Downloads from a small hub on loopback that can cut connections and lie about digests.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::get;
use futures::StreamExt;
use kindling_agent::cache::Cache;
use kindling_agent::download::pull;
use kindling_agent::hub::Hub;
use kindling_agent::source::HubSource;

const FILE: &str = "model.gguf";

/// What the storage behind the hub calls the file: it looks like a digest and is none.
const STORAGE_ETAG: &str = "\"ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\"";

struct FakeHub {
    content: Vec<u8>,
    /// What the hub says about the file, on its own answer.
    stated: Vec<(&'static str, String)>,
    /// Whether the hub redirects to a storage on another address, as it does for large files.
    storage: Option<String>,
    cut_first_after: Option<usize>,
    pause: Duration,
    requests: AtomicUsize,
    ranges: Mutex<Vec<String>>,
    /// Of requests to the hub, and to the storage.
    tokens: Mutex<[Vec<bool>; 2]>,
}

async fn listing(Path((org, _repo, _revision)): Path<(String, String, String)>) -> Response {
    if org == "gated" {
        return status(StatusCode::UNAUTHORIZED);
    }
    if org == "missing" {
        return status(StatusCode::NOT_FOUND);
    }
    Response::new(Body::from(format!(r#"{{"siblings":[{{"rfilename":"{FILE}"}},{{"rfilename":"README.md"}}]}}"#)))
}

fn status(code: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = code;
    response
}

async fn resolve(State(hub): State<Arc<FakeHub>>, headers: HeaderMap) -> Response {
    hub.tokens.lock().expect("lock")[0].push(headers.contains_key("authorization"));
    let mut response = match &hub.storage {
        Some(storage) => {
            let location = format!("http://{storage}/storage?signature=secret");
            Response::builder().status(302).header("location", location).body(Body::empty()).expect("response")
        }
        None => content(&hub, &headers).await,
    };
    for (name, value) in &hub.stated {
        response.headers_mut().insert(*name, value.parse().expect("value"));
    }
    response
}

async fn storage(State(hub): State<Arc<FakeHub>>, headers: HeaderMap) -> Response {
    hub.tokens.lock().expect("lock")[1].push(headers.contains_key("authorization"));
    content(&hub, &headers).await
}

async fn content(hub: &FakeHub, headers: &HeaderMap) -> Response {
    let attempt = hub.requests.fetch_add(1, Ordering::SeqCst);
    tokio::time::sleep(hub.pause).await;
    let range = headers.get("range").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    hub.ranges.lock().expect("lock").push(range.clone());
    let offset: usize = range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap_or(0);
    let rest = hub.content[offset..].to_vec();
    let builder = Response::builder()
        .status(if range.is_empty() { 200 } else { 206 })
        .header("etag", STORAGE_ETAG)
        .header("content-length", rest.len());
    match hub.cut_first_after.filter(|_| attempt == 0) {
        // The promised length is never reached: hyper closes the connection with an error.
        Some(bytes) => {
            let first = futures::stream::iter([Ok(rest[..bytes].to_vec())]);
            // The head and the first bytes must be on the wire before the connection is cut.
            let cut = futures::stream::once(async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                Err(std::io::Error::other("cut"))
            });
            builder.body(Body::from_stream(first.chain(cut))).expect("response")
        }
        None => builder.body(Body::from(rest)).expect("response"),
    }
}

/// Starts a hub whose files lie behind a redirect to another address.
async fn start(mut hub: FakeHub) -> (Arc<FakeHub>, Hub) {
    let behind = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    hub.storage = Some(behind.local_addr().expect("address").to_string());
    let (hub, client) = start_direct(hub).await;
    let app = Router::new().route("/storage", get(storage)).with_state(hub.clone());
    tokio::spawn(async move { axum::serve(behind, app).await });
    (hub, client)
}

/// Starts a hub that answers with the file itself, as it does for small files.
async fn start_direct(hub: FakeHub) -> (Arc<FakeHub>, Hub) {
    let hub = Arc::new(hub);
    let app = Router::new()
        .route("/api/models/{org}/{repo}/revision/{revision}", get(listing))
        .route("/{org}/{repo}/resolve/{revision}/{file}", get(resolve))
        .with_state(hub.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move { axum::serve(listener, app).await });
    (hub, Hub::new(&format!("http://{address}"), Some("token".to_owned())))
}

fn fake(cut_first_after: Option<usize>) -> FakeHub {
    let content: Vec<u8> = (0..300_000u32).map(|i| (i * 7 % 251) as u8).collect();
    // Computed with sha256sum over the same bytes.
    let etag = "\"b1cf7538cf80d01efe3e0b8e45dc930048a138c7b6f8c4aff08f478e4695e631\"".to_owned();
    FakeHub {
        content,
        stated: vec![
            ("x-linked-etag", etag),
            ("x-linked-size", "300000".to_owned()),
            ("x-repo-commit", "1".repeat(40)),
        ],
        storage: None,
        cut_first_after,
        pause: Duration::ZERO,
        requests: AtomicUsize::new(0),
        ranges: Mutex::default(),
        tokens: Mutex::default(),
    }
}

fn scratch(name: &str) -> (Cache, PathBuf) {
    let folder = std::env::temp_dir().join(format!("kindling-download-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    (Cache::at(&folder), folder.join("models/hf/org/repo/main").join(FILE))
}

fn source() -> HubSource {
    "hf:org/repo".parse().expect("source")
}

#[tokio::test]
async fn a_model_is_downloaded_once_and_the_hub_is_not_asked_again() {
    let (fake, hub) = start(fake(None)).await;
    let (cache, target) = scratch("once");
    let mut last = None;
    pull(&cache, &hub, &source(), &[], &mut |progress| last = Some(progress)).await.expect("first pull");
    assert_eq!(std::fs::read(target).expect("file"), fake.content);
    let last = last.expect("progress");
    assert_eq!((last.bytes, last.total_bytes), (300_000, Some(300_000)));
    pull(&cache, &hub, &source(), &[], &mut |_| ()).await.expect("second pull");
    assert_eq!(fake.requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_download_that_was_cut_resumes_where_it_stopped() {
    let (fake, hub) = start(fake(Some(100_000))).await;
    let (cache, target) = scratch("resume");
    let error = pull(&cache, &hub, &source(), &[], &mut |_| ()).await.expect_err("the cut");
    assert!(error.to_string().contains("the next try resumes"), "{error}");
    pull(&cache, &hub, &source(), &[], &mut |_| ()).await.expect("second pull");
    assert_eq!(std::fs::read(target).expect("file"), fake.content);
    let ranges = fake.ranges.lock().expect("lock").clone();
    assert!(ranges[1].starts_with("bytes=") && ranges[1] != "bytes=0-", "{ranges:?}");
}

#[tokio::test]
async fn bytes_that_do_not_match_the_promised_digest_are_removed() {
    let mut lying = fake(None);
    lying.stated[0].1 = "0".repeat(64);
    let (_, hub) = start(lying).await;
    let (cache, target) = scratch("digest");
    let error = pull(&cache, &hub, &source(), &[], &mut |_| ()).await.expect_err("damaged");
    assert!(error.to_string().contains("is damaged"), "{error}");
    let entries = std::fs::read_dir(target.parent().expect("folder")).expect("folder");
    let left: Vec<_> = entries.map(|entry| entry.expect("entry").file_name()).collect();
    assert_eq!(left, [".kindling.lock"]);
}

#[tokio::test]
async fn the_token_goes_to_the_hub_and_not_to_the_storage_behind_it() {
    let (fake, hub) = start(fake(None)).await;
    let (cache, _) = scratch("token");
    pull(&cache, &hub, &source(), &[], &mut |_| ()).await.expect("pull");
    assert_eq!(*fake.tokens.lock().expect("lock"), [vec![true], vec![false]]);
}

#[tokio::test]
async fn a_plain_etag_is_no_digest() {
    for stated in [vec![], vec![("x-repo-commit", "1".repeat(40))]] {
        let (fake, hub) = start_direct(FakeHub { stated, ..fake(None) }).await;
        let (cache, target) = scratch("direct");
        pull(&cache, &hub, &source(), &[], &mut |_| ()).await.expect("pull");
        assert_eq!(std::fs::read(target).expect("file"), fake.content);
    }
}

/// Cuts a download of the first hub and goes on with the second; the offsets that the second was asked for.
async fn resumed(name: &str, first: FakeHub, second: FakeHub) -> Vec<String> {
    let (cache, target) = scratch(name);
    let (_, hub) = start_direct(FakeHub { cut_first_after: Some(100_000), ..first }).await;
    pull(&cache, &hub, &source(), &[], &mut |_| ()).await.expect_err("the cut");
    let (second, hub) = start_direct(second).await;
    pull(&cache, &hub, &source(), &[], &mut |_| ()).await.expect("second pull");
    assert!(std::fs::read(&target).expect("file") == second.content, "{name}: the content is of one version");
    assert!(!target.with_extension("gguf.partial.version").exists());
    second.ranges.lock().expect("lock").clone()
}

#[tokio::test]
async fn two_versions_of_a_file_are_never_glued() {
    let of_commit = |digit: &str| FakeHub { stated: vec![("x-repo-commit", digit.repeat(40))], ..fake(None) };
    let changed = || FakeHub { content: vec![9; 300_000], ..of_commit("2") };
    let ranges = resumed("changed", of_commit("1"), changed()).await;
    assert!(ranges.last().is_some_and(String::is_empty), "starts over: {ranges:?}");

    let nameless = || FakeHub { stated: vec![], ..changed() };
    assert_eq!(resumed("unknown", FakeHub { stated: vec![], ..fake(None) }, nameless()).await, [""]);
    let ranges = resumed("lost", of_commit("1"), nameless()).await;
    assert!(ranges.last().is_some_and(String::is_empty), "starts over: {ranges:?}");

    let ranges = resumed("same", of_commit("1"), of_commit("1")).await;
    assert!(matches!(&ranges[..], [range] if range.starts_with("bytes=")), "{ranges:?}");
}

#[tokio::test]
async fn of_two_pulls_at_once_the_second_waits_and_finds_all_there() {
    let (fake, hub) = start(FakeHub { pause: Duration::from_millis(300), ..fake(None) }).await;
    let (cache, target) = scratch("two");
    let (source, mut ignore, mut ignore_too) = (source(), |_| (), |_| ());
    let (first, second) =
        tokio::join!(pull(&cache, &hub, &source, &[], &mut ignore), pull(&cache, &hub, &source, &[], &mut ignore_too));
    first.expect("first pull");
    second.expect("second pull");
    assert_eq!(std::fs::read(target).expect("file"), fake.content);
    assert_eq!(fake.requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    let (_, hub) = start(fake(None)).await;
    let (cache, _) = scratch("refused");
    let error_of = async |name: &str| {
        let source: HubSource = name.parse().expect("source");
        pull(&cache, &hub, &source, &[], &mut |_| ()).await.expect_err(name).to_string()
    };
    assert!(error_of("hf:gated/repo").await.contains("HF_TOKEN"));
    assert!(error_of("hf:missing/repo").await.contains("no such repository"));
    let asked = ["other.gguf".to_owned()];
    let error = pull(&cache, &hub, &source(), &asked, &mut |_| ()).await.expect_err("no such file").to_string();
    assert!(error.contains("other.gguf") && error.contains(FILE), "{error}");
    let nobody = Hub::new("http://127.0.0.1:9", None);
    let error = pull(&cache, &nobody, &source(), &[], &mut |_| ()).await.expect_err("nobody there").to_string();
    assert!(error.contains("cannot reach") && error.contains("cache import"), "{error}");
}
