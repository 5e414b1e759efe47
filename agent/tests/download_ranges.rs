//! Large files: several ranges at a time, whatever the server does meanwhile.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod hub_server;

use std::sync::atomic::Ordering;
use std::time::Duration;

use hub_server::{FILE, MIB, Scratch, Server, Ways, content};

const LENGTH: usize = 12 * MIB - 12_345;

async fn server(ways: Ways) -> std::sync::Arc<Server> {
    Server::start(content(LENGTH), ways).await
}

#[tokio::test]
async fn a_large_file_comes_in_ranges_at_a_time_and_each_byte_once() {
    let server = server(Ways { pause: Duration::from_millis(2), ..Ways::default() }).await;
    let scratch = Scratch::new();
    let mut told = Vec::new();
    scratch.pull_telling(&server, &mut |progress| told.push(progress.bytes)).await.unwrap();
    scratch.assert_whole(&content(LENGTH));
    assert_eq!(server.most_at_once.load(Ordering::SeqCst), 4);
    assert_eq!((server.asked_bytes(), server.sent.load(Ordering::SeqCst)), (LENGTH as u64, LENGTH as u64));
    assert!(told.is_sorted() && told.last() == Some(&(LENGTH as u64)), "progress counts all streams");
}

#[tokio::test]
async fn a_small_file_comes_in_one_stream() {
    let server = Server::start(content(4 * MIB - 1), Ways::default()).await;
    Scratch::new().pull(&server).await.unwrap();
    assert_eq!(server.ranges(), [""]);
}

#[tokio::test]
async fn streams_that_are_cut_leave_their_rest_to_the_others() {
    // the one that is not cut is still under way when the others end
    let pause = Duration::from_millis(10);
    let server = server(Ways { cuts: Some((600_000, 3)), pause, ..Ways::default() }).await;
    let scratch = Scratch::once();
    scratch.pull(&server).await.expect("one stream is left and brings all of it");
    scratch.assert_whole(&content(LENGTH));
    assert_eq!(server.sent.load(Ordering::SeqCst), LENGTH as u64, "nothing was fetched twice");
}

#[tokio::test]
async fn when_all_streams_are_cut_the_next_pull_brings_what_is_missing_and_no_more() {
    let server = server(Ways { cuts: Some((600_000, 4)), ..Ways::default() }).await;
    let scratch = Scratch::once();
    let error = scratch.pull(&server).await.unwrap_err();
    assert!(error.contains("broke off after 2400000 bytes"), "{error}");
    assert_eq!(scratch.names(), [".kindling.lock", "model.gguf.partial", "model.gguf.partial.journal"]);
    server.reset();
    let mut first = None;
    scratch.pull_telling(&server, &mut |progress| _ = first.get_or_insert(progress.kept_bytes)).await.unwrap();
    scratch.assert_whole(&content(LENGTH));
    assert_eq!((first, server.asked_bytes()), (Some(2_400_000), LENGTH as u64 - 2_400_000));
}

#[tokio::test]
async fn a_server_without_ranges_sends_one_stream() {
    let server = server(Ways { ranges: false, ..Ways::default() }).await;
    let scratch = Scratch::new();
    scratch.pull(&server).await.unwrap();
    scratch.assert_whole(&content(LENGTH));
    assert_eq!(server.ranges().len(), 1, "the whole file that came instead of the first range is taken");
    assert_eq!(server.sent.load(Ordering::SeqCst), LENGTH as u64);
}

#[tokio::test]
async fn without_ranges_a_cut_download_starts_from_the_beginning() {
    let server = server(Ways { ranges: false, cuts: Some((MIB, 1)), ..Ways::default() }).await;
    let scratch = Scratch::new();
    scratch.pull(&server).await.unwrap();
    scratch.assert_whole(&content(LENGTH));
    assert_eq!(server.sent.load(Ordering::SeqCst), (LENGTH + MIB) as u64);
}

#[tokio::test]
async fn what_cannot_be_known_again_is_not_fetched_in_ranges() {
    let ways = Ways { states_digest: false, commit: None, etag: None, ..Ways::default() };
    let server = server(ways).await;
    let scratch = Scratch::new();
    scratch.pull(&server).await.unwrap();
    scratch.assert_whole(&content(LENGTH));
    assert_eq!(server.ranges(), [""]);
}

#[tokio::test]
async fn a_file_that_changes_midway_is_not_mixed() {
    let other = content(LENGTH + 8).slice(8..);
    let of = |etag: &str, states_digest| Ways {
        states_digest,
        commit: None,
        etag: Some(format!("\"{etag}\"")),
        pause: Duration::from_millis(1),
        ..Ways::default()
    };
    for (what, before, after) in [
        ("the digest that the hub states", of("same", true), of("same", true)),
        ("the etag of the storage", of("old", false), of("new", false)),
    ] {
        let server = server(before).await;
        *server.later.lock().unwrap() = Some((2, after, other.clone()));
        let mut scratch = Scratch::new();
        scratch.settings.request_bytes = MIB as u64; // so that some are asked for after the change
        scratch.pull(&server).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        scratch.assert_whole(&other);
        let asked = server.asked.lock().unwrap().clone();
        let sent_etag = asked.iter().any(|asked| asked.if_range.as_deref() == Some("\"old\""));
        assert_eq!(sent_etag, what.starts_with("the etag"), "{what}: {asked:?}");
    }
}

#[tokio::test]
async fn a_file_that_never_stays_the_same_is_given_up() {
    let server = server(Ways { churns: true, ..Ways::default() }).await;
    let scratch = Scratch::new();
    let error = scratch.pull(&server).await.unwrap_err();
    assert!(error.contains("changed on the server again and again"), "{error}");
    assert!(!scratch.target().exists());
    assert_eq!(server.ranges().len(), 3, "the first and two more");
}

#[tokio::test]
async fn servers_that_lie_are_told_of() {
    let lying = server(Ways { lies_about_range: true, ..Ways::default() }).await;
    let scratch = Scratch::new();
    let error = scratch.pull(&lying).await.unwrap_err();
    assert!(
        error.contains("answered a request for bytes 0 to ") && error.contains("the content-range \"bytes 1-"),
        "{error}"
    );
    assert!(!scratch.target().exists());

    let short = server(Ways { shorter_by: 7, ..Ways::default() }).await;
    let error = Scratch::once().pull(&short).await.unwrap_err();
    assert!(error.contains("ended after ") && error.contains(&format!("of {LENGTH} bytes")), "{error}");

    let wrong = server(Ways { wrong_digest: Some("ab".repeat(32)), ..Ways::default() }).await;
    let scratch = Scratch::new();
    let error = scratch.pull(&wrong).await.unwrap_err();
    assert!(error.contains("is damaged") && error.contains(&"ab".repeat(32)), "{error}");
    assert_eq!(scratch.names(), [".kindling.lock"], "the part is not kept as good");
}

#[tokio::test]
async fn a_busy_server_gets_fewer_streams_and_the_file_comes_all_the_same() {
    let server = server(Ways { refuses: (12, 503, Some(6)), ..Ways::default() }).await;
    // longer than a request waits by itself: the stream ends and the download pauses
    let scratch = Scratch::new();
    let began = std::time::Instant::now();
    let error = scratch.pull(&server).await.unwrap_err();
    assert!(error.contains("try again in 6 s"), "{error}");
    assert!(began.elapsed() >= Duration::from_secs(12), "two pauses of six seconds between three tries");
    server.change(|ways| ways.refuses = (0, 0, None));
    scratch.pull(&server).await.unwrap();
    scratch.assert_whole(&content(LENGTH));
    assert!(!scratch.names().contains(&format!("{FILE}.partial")));
}
