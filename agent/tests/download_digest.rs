//! The same bytes under two names are fetched once, by whoever is allowed to have them.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod hub_server;

use std::os::unix::fs::MetadataExt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hub_server::{FILE, MIB, Scratch, Server, Ways, content};
use kindling_agent::source::HubSource;

const LENGTH: usize = 5 * MIB;

fn of(repo: &str) -> HubSource {
    format!("hf:{repo}").parse().unwrap()
}

async fn pull(scratch: &Scratch, server: &Server, source: &HubSource) -> Result<(), String> {
    scratch.downloader(server).pull(source, &[], &mut |_| ()).await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_second_repository_with_the_same_bytes_is_linked() {
    let server = Server::start(content(LENGTH), Ways::default()).await;
    let scratch = Scratch::new();
    let [first, second] = ["org/first", "other/second"].map(of);
    pull(&scratch, &server, &first).await.unwrap();
    assert_eq!(server.reset(), LENGTH as u64);
    let plan = scratch.downloader(&server).plan(&second, &[]).await.unwrap();
    assert_eq!((plan.there, plan.to_come, plan.disk), (LENGTH as u64, Some(0), Some(0)), "no room is needed");
    let mut told = None;
    scratch.downloader(&server).pull(&second, &[], &mut |progress| told = Some(progress)).await.unwrap();
    assert_eq!(told.map(|told| (told.bytes, told.kept_bytes)), Some((LENGTH as u64, LENGTH as u64)));
    assert_eq!((server.ranges(), server.reset()), (vec![], 0), "the storage was not asked");
    let [a, b] = [&first, &second].map(|source| scratch.cache().folder(source).join(FILE));
    assert_eq!(std::fs::metadata(&a).unwrap().ino(), std::fs::metadata(&b).unwrap().ino());
    scratch.cache().remove(&first, &[]).unwrap();
    assert!(!a.exists() && std::fs::read(b).unwrap() == content(LENGTH), "each goes by itself");
}

#[tokio::test]
async fn of_two_at_once_one_fetches_and_the_other_waits_for_it() {
    let server = Server::start(content(LENGTH), Ways { pause: Duration::from_millis(5), ..Ways::default() }).await;
    let scratch = Scratch::new();
    let [first, second] = ["org/first", "other/second"].map(of);
    let (one, two) = tokio::join!(pull(&scratch, &server, &first), pull(&scratch, &server, &second));
    one.unwrap();
    two.unwrap();
    assert_eq!(server.sent.load(Ordering::SeqCst), LENGTH as u64);
    assert_eq!(server.asked_bytes(), LENGTH as u64);
}

#[tokio::test]
async fn who_may_not_read_it_does_not_get_it_by_its_digest() {
    let server = Server::start(content(LENGTH), Ways::default()).await;
    let scratch = Scratch::new();
    pull(&scratch, &server, &of("org/open")).await.unwrap();
    let gated = of("gated-files/model");
    let error = pull(&scratch, &server, &gated).await.unwrap_err();
    assert!(error.contains("no access"), "{error}");
    assert!(!scratch.cache().folder(&gated).join(FILE).exists());
}

#[tokio::test]
async fn what_was_imported_by_hand_is_linked_too_and_what_is_damaged_is_not() {
    let server = Server::start(content(LENGTH), Ways::default()).await;
    let scratch = Scratch::new();
    let file = scratch.folder.path().join("by-hand.gguf");
    std::fs::write(&file, content(LENGTH)).unwrap();
    scratch.cache().import(&file, &of("my/own"), &mut |_| ()).unwrap();
    pull(&scratch, &server, &of("org/first")).await.unwrap();
    assert_eq!(server.reset(), 0);

    // of another size than its record: not what it was
    for name in ["my/own", "org/first"].map(of) {
        let folder = scratch.cache().folder(&name);
        for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.extension().is_some_and(|ending| ending == "gguf") {
                std::fs::write(entry, b"short").unwrap();
            }
        }
    }
    pull(&scratch, &server, &of("org/second")).await.unwrap();
    assert_eq!(server.reset(), LENGTH as u64);
}
