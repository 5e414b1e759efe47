//! Downloads from a small hub on loopback that can cut connections and lie about digests.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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

struct FakeHub {
    content: Vec<u8>,
    etag: String,
    cut_first_after: Option<usize>,
    requests: AtomicUsize,
    ranges: std::sync::Mutex<Vec<String>>,
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

async fn file(State(hub): State<Arc<FakeHub>>, headers: HeaderMap) -> Response {
    let attempt = hub.requests.fetch_add(1, Ordering::SeqCst);
    let range = headers.get("range").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    hub.ranges.lock().expect("lock").push(range.clone());
    let offset: usize = range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap_or(0);
    let rest = hub.content[offset..].to_vec();
    let builder = Response::builder()
        .status(if range.is_empty() { 200 } else { 206 })
        .header("x-linked-etag", format!("\"{}\"", hub.etag))
        .header("content-length", rest.len());
    match hub.cut_first_after.filter(|_| attempt == 0) {
        // The promised length is never reached: hyper closes the connection with an error.
        Some(bytes) => {
            let first = futures::stream::iter([Ok(rest[..bytes].to_vec())]);
            // The head and the first bytes must be on the wire before the connection is cut.
            let cut = futures::stream::once(async {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                Err(std::io::Error::other("cut"))
            });
            builder.body(Body::from_stream(first.chain(cut))).expect("response")
        }
        None => builder.body(Body::from(rest)).expect("response"),
    }
}

async fn start(hub: FakeHub) -> (Arc<FakeHub>, Hub) {
    let hub = Arc::new(hub);
    let app = Router::new()
        .route("/api/models/{org}/{repo}/revision/{revision}", get(listing))
        .route("/{org}/{repo}/resolve/{revision}/{file}", get(file))
        .with_state(hub.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move { axum::serve(listener, app).await });
    (hub, Hub::new(&format!("http://{address}"), None))
}

fn fake(cut_first_after: Option<usize>) -> FakeHub {
    let content: Vec<u8> = (0..300_000u32).map(|i| (i * 7 % 251) as u8).collect();
    // Computed with sha256sum over the same bytes.
    let etag = "b1cf7538cf80d01efe3e0b8e45dc930048a138c7b6f8c4aff08f478e4695e631".to_owned();
    FakeHub { content, etag, cut_first_after, requests: AtomicUsize::new(0), ranges: Default::default() }
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
    lying.etag = "0".repeat(64);
    let (_, hub) = start(lying).await;
    let (cache, target) = scratch("digest");
    let error = pull(&cache, &hub, &source(), &[], &mut |_| ()).await.expect_err("damaged");
    assert!(error.to_string().contains("is damaged"), "{error}");
    assert!(!target.exists() && !target.with_extension("gguf.partial").exists());
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
