//! A process that is killed in the middle of a download: another one goes on where the journal says.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod hub_server;

use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hub_server::{MIB, Scratch, Server, Ways, content, source};
use kindling_agent::cache::Cache;
use kindling_agent::download::Downloader;
use kindling_agent::hub::Hub;

const LENGTH: usize = 40 * MIB;
const WINDOW: u64 = MIB as u64;
const STREAMS: u64 = 4;

/// What the child runs: this test binary itself, told so by the environment.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by the test below, as a process that can be killed"]
async fn child() {
    let hub = Hub::new(&std::env::var("TEST_HUB").unwrap(), None);
    let cache = Cache::at(std::env::var("TEST_CACHE").unwrap());
    let settings = Scratch::new().settings;
    Downloader { cache, hub, settings }.pull(&source(), &[], &mut |_| ()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_process_noted_is_not_asked_for_again() {
    let pause = Duration::from_millis(10);
    let server = Server::start(content(LENGTH), Ways { pause, ..Ways::default() }).await;
    let scratch = Scratch::new();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--ignored"])
        .envs([("TEST_HUB", server.address.as_str()), ("TEST_CACHE", scratch.folder.path().to_str().unwrap())])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while server.sent.load(Ordering::SeqCst) < LENGTH as u64 / 2 {
        assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none(), "half of it never came");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    child.kill().unwrap(); // SIGKILL
    child.wait().unwrap();
    // what was on its way when the process died is put on the wire for a moment more
    tokio::time::sleep(Duration::from_millis(300)).await;
    let sent = server.reset();
    server.change(|ways| ways.pause = Duration::ZERO);

    let mut kept = None;
    scratch.pull_telling(&server, &mut |progress| _ = kept.get_or_insert(progress.kept_bytes)).await.unwrap();
    scratch.assert_whole(&content(LENGTH));
    let (kept, asked) = (kept.unwrap(), server.asked_bytes());
    eprintln!("of {LENGTH} bytes the first process was sent {sent} and had noted {kept}; the second asked for {asked}");
    assert_eq!(asked, LENGTH as u64 - kept, "exactly what was missing");
    // a stream loses what it had not noted yet, and what lay in buffers on the way
    let lost = sent.saturating_sub(kept);
    assert!(lost <= STREAMS * 3 * WINDOW, "{lost} bytes of {sent} were lost");
}
