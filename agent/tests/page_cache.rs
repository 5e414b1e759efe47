//! What was downloaded does not stay in the page cache, where models need the memory.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod hub_server;

use std::path::Path;
use std::process::Command;

use hub_server::{MIB, Scratch, Server, Ways, content, source};
use kindling_agent::download::Settings;

const LENGTH: usize = 256 * MIB;

/// Bytes of a file that the kernel keeps in memory.
fn resident(file: &Path) -> Option<u64> {
    let output =
        Command::new("fincore").args(["--bytes", "--noheadings", "--output", "RES"]).arg(file).output().ok()?;
    assert!(output.status.success(), "fincore: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap().trim().parse().unwrap())
}

/// Whether this machine can tell: there is a fincore, and the temporary folder is on a disk, where a page cache can be
/// let go.
fn can_tell(scratch: &Scratch) -> bool {
    let written = scratch.folder.path().join("written");
    std::fs::write(&written, vec![1; MIB]).unwrap();
    let Some(cached) = resident(&written) else {
        eprintln!("SKIPPED: there is no fincore (package util-linux), so nobody can tell what is in the page cache");
        return false;
    };
    assert_eq!(cached, MIB as u64, "what was just written is in the page cache");
    let kind = nix::sys::statfs::statfs(scratch.folder.path()).unwrap().filesystem_type();
    if kind == nix::sys::statfs::TMPFS_MAGIC {
        eprintln!("SKIPPED: the temporary folder is in memory; set TMPDIR to a folder on a disk");
        return false;
    }
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_download_and_an_import_next_to_nothing_stays_in_the_page_cache() {
    let mut scratch = Scratch::new();
    if !can_tell(&scratch) {
        return;
    }
    scratch.settings = Settings::default();
    let server = Server::start(content(LENGTH), Ways::default()).await;
    scratch.pull(&server).await.unwrap();
    let downloaded = resident(&scratch.target()).unwrap();
    eprintln!("{downloaded} of {LENGTH} bytes are cached after a download in ranges");
    assert!(downloaded <= LENGTH as u64 / 50, "{downloaded} bytes of {LENGTH} are cached");

    let in_order = Scratch { settings: Settings { streams: 1, ..Settings::default() }, ..Scratch::new() };
    in_order.pull(&server).await.unwrap();
    let downloaded = resident(&in_order.target()).unwrap();
    eprintln!("{downloaded} of {LENGTH} bytes are cached after a download in one stream");
    assert!(downloaded <= LENGTH as u64 / 50, "{downloaded} bytes of {LENGTH} are cached");

    let copied = Scratch::new();
    copied.cache().import(&scratch.target(), &source(), &mut |_| ()).unwrap();
    for file in [scratch.target(), copied.target()] {
        let cached = resident(&file).unwrap();
        eprintln!("{cached} of {LENGTH} bytes of {} are cached after an import", file.display());
        assert!(cached <= LENGTH as u64 / 50, "{cached} bytes of {LENGTH} are cached");
    }
}
