//! Downloads in one stream, from a small hub on loopback that can cut connections and lie about digests.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod hub_server;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hub_server::{FILE, Scratch, Server, Ways, content, digest, source};
use kindling_agent::hub::Hub;
use kindling_agent::source::HubSource;

const LENGTH: usize = 300_000;

#[tokio::test]
async fn a_model_is_downloaded_once_and_the_hub_is_not_asked_again() {
    let server = Server::start(content(LENGTH), Ways::default()).await;
    let scratch = Scratch::new();
    let mut last = None;
    scratch.pull_telling(&server, &mut |progress| last = Some(progress)).await.unwrap();
    scratch.assert_whole(&content(LENGTH));
    let last = last.unwrap();
    assert_eq!((last.bytes, last.total_bytes), (300_000, Some(300_000)));
    scratch.pull(&server).await.unwrap();
    assert_eq!((server.ranges(), server.listings.load(Ordering::SeqCst)), (vec![String::new()], 1));
}

#[tokio::test]
async fn a_download_that_was_cut_resumes_where_it_stopped() {
    let server = Server::start(content(LENGTH), Ways { cuts: Some((100_000, 1)), ..Ways::default() }).await;
    let scratch = Scratch::once();
    let error = scratch.pull(&server).await.unwrap_err();
    assert!(error.contains("broke off after 100000 bytes; the next try resumes"), "{error}");
    scratch.pull(&server).await.unwrap();
    scratch.assert_whole(&content(LENGTH));
    assert_eq!(server.ranges(), ["", "bytes=100000-299999"]);
}

#[tokio::test]
async fn a_server_that_cuts_again_and_again_is_asked_again_while_something_comes() {
    let server = Server::start(content(LENGTH), Ways { cuts: Some((40_000, 7)), ..Ways::default() }).await;
    let scratch = Scratch::new();
    scratch.pull(&server).await.expect("more cuts than tries, and each try brings something");
    scratch.assert_whole(&content(LENGTH));
    assert_eq!(server.ranges().len(), 8);

    let server = Server::start(content(LENGTH), Ways { cuts: Some((0, usize::MAX)), ..Ways::default() }).await;
    let error = Scratch::new().pull(&server).await.unwrap_err();
    assert!(error.contains("broke off after 0 bytes"), "{error}");
    assert_eq!(server.ranges().len(), 3, "as many as there are tries");
}

#[tokio::test]
async fn bytes_that_do_not_match_the_promised_digest_are_removed() {
    let wrong = "0".repeat(64);
    let server = Server::start(content(LENGTH), Ways { wrong_digest: Some(wrong.clone()), ..Ways::default() }).await;
    let scratch = Scratch::new();
    let error = scratch.pull(&server).await.unwrap_err();
    let true_digest = digest(&content(LENGTH));
    assert!(error.contains(&format!("sha256 is {true_digest}, the hub says {wrong}")), "{error}");
    assert_eq!(scratch.names(), [".kindling.lock"]);
    assert_eq!(server.ranges().len(), 1, "the same bytes are not fetched again by themselves");
}

#[tokio::test]
async fn the_token_goes_to_the_hub_and_not_to_the_storage_behind_it() {
    let server = Server::start(content(LENGTH), Ways::default()).await;
    Scratch::new().pull(&server).await.unwrap();
    assert_eq!(*server.tokens_at_hub.lock().unwrap(), [true, true]);
    assert!(server.asked.lock().unwrap().iter().all(|asked| !asked.has_token));
}

#[tokio::test]
async fn a_plain_etag_is_no_digest() {
    let etag = Some(format!("\"{}\"", "f".repeat(64)));
    for commit in [None, Some("1".repeat(40))] {
        let ways = Ways { states_digest: false, redirects: false, etag: etag.clone(), commit, ..Ways::default() };
        let server = Server::start(content(LENGTH), ways).await;
        let scratch = Scratch::new();
        scratch.pull(&server).await.unwrap();
        scratch.assert_whole(&content(LENGTH));
    }
}

/// Cuts a download of the first version and goes on with the second; the ranges that were asked for then.
async fn resumed(first: Ways, second: Ways) -> Vec<String> {
    let is_same = (&first.commit, &first.etag) == (&second.commit, &second.etag);
    let server = Server::start(content(LENGTH), Ways { cuts: Some((100_000, 1)), ..first }).await;
    let scratch = Scratch::once();
    scratch.pull(&server).await.unwrap_err();
    server.reset();
    let new = if is_same { content(LENGTH) } else { vec![9; LENGTH].into() };
    server.set(new.clone(), second);
    scratch.pull(&server).await.unwrap();
    scratch.assert_whole(&new);
    server.ranges()
}

#[tokio::test]
async fn two_versions_of_a_file_are_never_glued() {
    let of = |commit: Option<&str>, etag: Option<&str>| Ways {
        states_digest: false,
        redirects: false,
        commit: commit.map(|digit| digit.repeat(40)),
        etag: etag.map(|etag| format!("\"{etag}\"")),
        ..Ways::default()
    };
    let from_scratch = [String::new()];
    assert_eq!(resumed(of(Some("1"), None), of(Some("2"), None)).await, from_scratch, "another commit");
    assert_eq!(resumed(of(None, Some("a")), of(None, Some("b"))).await, from_scratch, "another etag");
    assert_eq!(resumed(of(None, None), of(None, None)).await, from_scratch, "nobody knows which");
    assert_eq!(resumed(of(Some("1"), None), of(None, None)).await, from_scratch, "not known any more");
    for ways in [of(Some("1"), None), of(None, Some("a"))] {
        assert_eq!(resumed(ways.clone(), ways).await, ["bytes=100000-299999"]);
    }
    let weak = Ways { etag: Some("W/\"a\"".to_owned()), ..of(None, None) };
    assert_eq!(resumed(weak.clone(), weak).await, from_scratch, "a weak etag does not mean the same bytes");
}

#[tokio::test]
async fn a_journal_that_is_corrupt_means_from_the_beginning() {
    let server = Server::start(content(LENGTH), Ways { cuts: Some((100_000, 1)), ..Ways::default() }).await;
    let scratch = Scratch::once();
    scratch.pull(&server).await.unwrap_err();
    std::fs::write(scratch.model().join(format!("{FILE}.partial.journal")), "no journal\n").unwrap();
    scratch.pull(&server).await.unwrap();
    scratch.assert_whole(&content(LENGTH));
    assert_eq!(server.ranges(), ["", ""]);
}

#[tokio::test]
async fn of_two_pulls_at_once_the_second_waits_and_finds_all_there() {
    let server = Server::start(content(LENGTH), Ways { pause: Duration::from_millis(50), ..Ways::default() }).await;
    let scratch = Scratch::new();
    let (first, second) = tokio::join!(scratch.pull(&server), scratch.pull(&server));
    first.unwrap();
    second.unwrap();
    scratch.assert_whole(&content(LENGTH));
    assert_eq!(server.ranges().len(), 1);
}

#[tokio::test]
async fn a_busy_server_is_asked_again_when_it_said() {
    for code in [429, 503] {
        let server = Server::start(content(LENGTH), Ways { refuses: (1, code, Some(1)), ..Ways::default() }).await;
        let scratch = Scratch::new();
        let began = Instant::now();
        scratch.pull(&server).await.unwrap();
        scratch.assert_whole(&content(LENGTH));
        assert!(began.elapsed() >= Duration::from_secs(1), "{code}: not before it said");
        assert_eq!(server.ranges().len(), 2);
    }
    let server = Server::start(content(LENGTH), Ways { refuses: (9, 429, Some(3600)), ..Ways::default() }).await;
    let error = Scratch::new().pull(&server).await.unwrap_err();
    assert!(error.contains("asks for fewer requests and to try again in 3600 s"), "{error}");
    assert_eq!(server.ranges().len(), 1, "nobody waits that long, and nobody asks sooner");
}

#[tokio::test]
async fn a_failing_storage_is_asked_again_and_a_refusing_one_is_not() {
    let server = Server::start(content(LENGTH), Ways { refuses: (2, 500, None), ..Ways::default() }).await;
    let scratch = Scratch::new();
    scratch.pull(&server).await.unwrap();
    scratch.assert_whole(&content(LENGTH));
    for (code, words) in [(401, "HF_TOKEN"), (403, "HF_TOKEN"), (404, "no such repository, revision or file")] {
        let server = Server::start(content(LENGTH), Ways { refuses: (9, code, None), ..Ways::default() }).await;
        let error = Scratch::new().pull(&server).await.unwrap_err();
        assert!(error.contains(words) && error.contains(&format!("answered {code}")), "{error}");
        assert!(error.contains(FILE) && !error.contains("signature"), "{error}");
        assert_eq!(server.ranges().len(), 1);
    }
}

#[tokio::test]
async fn a_body_shorter_than_promised_is_noticed() {
    let server = Server::start(content(LENGTH), Ways { shorter_by: 10, ..Ways::default() }).await;
    let scratch = Scratch::once();
    let error = scratch.pull(&server).await.unwrap_err();
    assert!(error.contains("ended after 299990 of 300000 bytes"), "{error}");
    assert!(!scratch.target().exists());
    server.set(content(LENGTH), Ways::default());
    scratch.pull(&server).await.unwrap();
    scratch.assert_whole(&content(LENGTH));
}

#[tokio::test]
async fn empty_files_are_files() {
    let server = Server::start(content(0), Ways { states_digest: false, redirects: false, ..Ways::default() }).await;
    let scratch = Scratch::new();
    scratch.pull(&server).await.unwrap();
    scratch.assert_whole(&[]);
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    let server = Server::start(content(LENGTH), Ways::default()).await;
    let scratch = Scratch::new();
    let downloader = scratch.downloader(&server);
    let error_of = async |name: &str| {
        let source: HubSource = name.parse().unwrap();
        downloader.pull(&source, &[], &mut |_| ()).await.expect_err(name).to_string()
    };
    for name in ["hf:gated/repo", "hf:forbidden/repo", "hf:gated-files/repo"] {
        assert!(error_of(name).await.contains("HF_TOKEN"), "{name}");
    }
    assert!(error_of("hf:missing/repo").await.contains("no such repository"));
    let asked = ["other.gguf".to_owned()];
    let error = downloader.pull(&source(), &asked, &mut |_| ()).await.unwrap_err().to_string();
    assert!(error.contains("other.gguf") && error.contains(FILE), "{error}");
    let mut nobody = scratch.downloader(&server);
    nobody.hub = Hub::new("http://127.0.0.1:9", None);
    let error = nobody.pull(&source(), &[], &mut |_| ()).await.unwrap_err().to_string();
    assert!(error.contains("cannot reach") && error.contains("cache import"), "{error}");
}
