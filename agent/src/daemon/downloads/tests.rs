use axum::Router;
use axum::extract::{Path as UrlPath, State as Shared};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;

/// A hub on loopback with one file a repository; it answers when it is let.
#[derive(Default)]
struct FakeHub {
    is_closed: AtomicBool,
    is_missing: AtomicBool,
    listings: AtomicUsize,
    now: AtomicUsize,
    most_at_once: AtomicUsize,
}

const CONTENT: &str = "GGUF and so on";

async fn listing(Shared(hub): Shared<Arc<FakeHub>>) -> Response {
    hub.listings.fetch_add(1, Ordering::SeqCst);
    match hub.is_missing.load(Ordering::SeqCst) {
        true => StatusCode::NOT_FOUND.into_response(),
        false => r#"{"siblings":[{"rfilename":"model.gguf"}]}"#.into_response(),
    }
}

async fn file(Shared(hub): Shared<Arc<FakeHub>>, _: UrlPath<(String, String)>, _: HeaderMap) -> Response {
    let now = hub.now.fetch_add(1, Ordering::SeqCst) + 1;
    hub.most_at_once.fetch_max(now, Ordering::SeqCst);
    while hub.is_closed.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    hub.now.fetch_sub(1, Ordering::SeqCst);
    CONTENT.into_response()
}

struct Test {
    hub: Arc<FakeHub>,
    downloads: Downloads,
    folder: PathBuf,
    node: channel::Sender<Snapshot>,
    _scratch: tempfile::TempDir,
    _stop: tokio_util::sync::DropGuard,
}

impl Test {
    async fn start(name: &str, free: fn(&Path) -> io::Result<Bytes>) -> Self {
        let hub = Arc::new(FakeHub::default());
        let app = Router::new()
            .route("/api/models/{org}/{repo}/revision/{revision}", get(listing))
            .route("/org/{repo}/resolve/main/{file}", get(file))
            .with_state(hub.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        let scratch = tempfile::Builder::new().prefix(&format!("kindling-agent-downloads-{name}-")).tempdir().unwrap();
        let folder = scratch.path().to_owned();
        let shutdown = CancellationToken::new();
        let client = Hub::new(&format!("http://{address}"), None);
        let (node, seen) = node();
        let keep_unnamed = Duration::from_secs(3600);
        let store =
            Store { cache: Cache::at(&folder), hub: client, keep_unnamed, node_name: "spark-1".into(), node: seen };
        let downloads = Downloads::with_free_space(store, shutdown.clone(), free);
        Self { hub, downloads, folder, node, _scratch: scratch, _stop: shutdown.drop_guard() }
    }

    fn ensure(&self, repo: &str) -> EnsureModelResponse {
        self.downloads.ensure(&format!("hf:org/{repo}").parse().unwrap(), &[]).unwrap()
    }

    /// Asks again until it is so.
    async fn until(&self, repo: &str, state: State) -> EnsureModelResponse {
        for _ in 0..1000 {
            let response = self.ensure(repo);
            if response.state() == state {
                return response;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{repo} never got {state:?}: {:?}", self.ensure(repo));
    }

    /// The same, where it takes as long as it takes.
    async fn until_later(&self, repo: &str, state: State) {
        while self.ensure(repo).state() != state {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A node on which nothing runs, as its desk sees it.
fn node() -> (channel::Sender<Snapshot>, channel::Receiver<Snapshot>) {
    channel::channel(Snapshot {
        looked: Instant::now(),
        read_at: None,
        reading: crate::daemon::memory::Reading::default(),
        baseline: None,
        floors: crate::daemon::watch::Floors::above(Bytes::gib(8)),
        pressure: kindling_api::Pressure::None,
        holders: Vec::new(),
        is_settled: true,
        num_waiting: 0,
        num_revoked: 0,
        ledger: Some(crate::daemon::desk::Ledger::default()),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn however_many_ask_there_is_one_download_and_then_it_is_present() {
    let test = Test::start("one", |_| Ok(Bytes::gib(9))).await;
    test.hub.is_closed.store(true, Ordering::SeqCst);
    for _ in 0..5 {
        assert_ne!(test.ensure("a").state(), State::Present);
    }
    test.until("a", State::Downloading).await;
    test.hub.is_closed.store(false, Ordering::SeqCst);
    let present = test.until("a", State::Present).await;
    assert_eq!((present.bytes, present.total_bytes), (CONTENT.len() as u64, CONTENT.len() as u64));
    assert_eq!(present.digest.len(), 64);
    assert_eq!(test.hub.listings.load(Ordering::SeqCst), 1);
    // what is there is there at once, and nobody asks the hub
    assert_eq!(test.ensure("a"), present);
    assert_eq!(test.hub.listings.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_after_the_other() {
    let test = Test::start("queue", |_| Ok(Bytes::gib(9))).await;
    test.hub.is_closed.store(true, Ordering::SeqCst);
    test.ensure("a");
    test.until("a", State::Downloading).await;
    assert_eq!(test.ensure("b").state(), State::Queued);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(test.ensure("b").state(), State::Queued, "as long as the other one is under way");
    test.hub.is_closed.store(false, Ordering::SeqCst);
    test.until("b", State::Present).await;
    assert_eq!(test.ensure("a").state(), State::Present);
    assert_eq!(test.hub.most_at_once.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_before_a_byte_is_written() {
    let test = Test::start("full", |_| Ok(SPARE)).await;
    let failed = test.until("a", State::Failed).await;
    assert!(failed.message.starts_with("hf:org/a@main needs 0.00 MiB more on the disk of "), "{}", failed.message);
    let words = " of spark-1, of which 512.00 MiB are free and 512.00 MiB stay so: 0.00 MiB are missing; make room";
    assert!(failed.message.contains(words), "{}", failed.message);
    assert!(!test.folder.join("models").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_says_why_and_is_tried_again_by_itself() {
    let test = Test::start("retry", |_| Ok(Bytes::gib(9))).await;
    test.hub.is_missing.store(true, Ordering::SeqCst);
    let failed = test.until("a", State::Failed).await;
    assert!(failed.message.contains("no such repository"), "{}", failed.message);
    test.hub.is_missing.store(false, Ordering::SeqCst);
    let present = tokio::time::timeout(FIRST_PAUSE + Duration::from_secs(5), async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let response = test.ensure("a");
            if response.state() == State::Present {
                return response;
            }
        }
    });
    assert_eq!(present.await.expect("the next try comes by itself").bytes, CONTENT.len() as u64);
}

#[test]
fn this_machine_has_a_disk() {
    assert!(free_space(Path::new("/a/folder/that/is/not/there")).unwrap() > Bytes(0));
}

/// Writes what came from a hub, and nobody names.
fn leave(test: &Test, repo: &str, unnamed_since: u64) -> PathBuf {
    let folder = test.folder.join("models/hf/org").join(repo).join("main");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("old.gguf"), vec![1; 8192]).unwrap();
    let mut manifest = crate::manifest::Manifest::default();
    let record = crate::manifest::FileRecord::downloaded(8192, "ab".to_owned());
    let record = crate::manifest::FileRecord { unnamed_since: Some(unnamed_since), ..record };
    manifest.files.insert("old.gguf".to_owned(), record);
    manifest.write(&folder).unwrap();
    folder.join("old.gguf")
}

static FREE_KIB: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

#[tokio::test(flavor = "multi_thread")]
async fn a_wanted_download_without_room_gets_it_from_what_nobody_names_oldest_first() {
    // a disk with room for nothing, as long as the oldest is there
    let start = Test::start("room", |cache| {
        let is_full = cache.join("models/hf/org/oldest").exists();
        Ok(if is_full { SPARE } else { SPARE + Bytes(FREE_KIB.load(Ordering::SeqCst) << 10) })
    });
    let test = start.await;
    FREE_KIB.store(64, Ordering::SeqCst);
    let [newer, oldest] = [("newer", 2_000), ("oldest", 1_000)].map(|(repo, since)| leave(&test, repo, since));
    // nobody said yet what LocalModels name
    let failed = test.until("a", State::Failed).await;
    assert!(failed.message.contains("needs 0.00 MiB more on the disk of "), "{}", failed.message);
    assert!(newer.exists() && oldest.exists());

    let list = KeepOnlyRequest { models: Vec::new(), is_complete: true };
    test.node.send_modify(|node| node.is_settled = false);
    let held_back = test.downloads.keep_only(list).await.unwrap().held_back;
    assert!(held_back.contains("does not know yet"), "{held_back}");
    assert!(newer.exists() && oldest.exists());
    test.node.send_modify(|node| node.is_settled = true);
    let present = tokio::time::timeout(FIRST_PAUSE + Duration::from_secs(10), test.until_later("a", State::Present));
    present.await.expect("the next try makes room");
    assert_eq!((newer.exists(), oldest.exists()), (true, false), "the oldest, and no more than is needed");
    let (cached, _, freed) = test.downloads.figures().read();
    assert_eq!(freed, 8192);
    assert!(cached >= 8192, "{cached}");
}
