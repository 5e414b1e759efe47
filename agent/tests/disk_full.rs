//! A disk without room: told clearly, and nothing half is left on it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod hub_server;

use std::path::Path;
use std::process::Command;

use hub_server::{FILE, MIB, Scratch, Server, Ways, content, source};
use kindling_agent::cache::Cache;

/// A file system of 8 MiB, while it lives.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let folder = tempfile::Builder::new().prefix("kindling-disk-").tempdir().unwrap();
        let options = ["-t", "tmpfs", "-o", "size=8m", "none"];
        let mounted = Command::new("mount").args(options).arg(folder.path()).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(folder)),
            Ok(output) => {
                eprintln!("SKIPPED: a small disk can't be mounted here: {}", String::from_utf8_lossy(&output.stderr));
                None
            }
            Err(error) => {
                eprintln!("SKIPPED: there is no mount: {error}");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "the small disk can't be unmounted");
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

#[tokio::test]
async fn a_file_that_has_no_room_is_told_and_leaves_nothing() {
    let Some(disk) = SmallDisk::mount() else { return };
    let ways_without_a_size = Ways { states_digest: false, ranges: false, ..Ways::default() };
    for (ways, what) in [(Ways::default(), "known size"), (ways_without_a_size, "in one stream")] {
        let server = Server::start(content(12 * MIB), ways).await;
        let scratch = Scratch::new();
        let mut downloader = scratch.downloader(&server);
        downloader.cache = Cache::at(disk.path().join("cache"));
        let error = downloader.pull(&source(), &[], &mut |_| ()).await.unwrap_err().to_string();
        let folder = downloader.cache.folder(&source());
        assert!(error.starts_with(&format!("the disk of {} is full", folder.display())), "{what}: {error}");
        assert!(error.contains(FILE) && error.contains("make room or move the cache"), "{what}: {error}");
        assert_eq!(names(&folder), [".kindling.lock"], "{what}");
        assert_eq!(server.reset(), 0, "{what}: told before a byte came");
    }
    // and what fits is fetched as ever
    let server = Server::start(content(5 * MIB), Ways::default()).await;
    let mut downloader = Scratch::new().downloader(&server);
    downloader.cache = Cache::at(disk.path().join("cache"));
    downloader.pull(&source(), &[], &mut |_| ()).await.unwrap();
}

#[tokio::test]
async fn an_import_without_room_leaves_nothing_either() {
    let Some(disk) = SmallDisk::mount() else { return };
    let scratch = Scratch::new();
    let file = scratch.folder.path().join(FILE);
    std::fs::write(&file, content(12 * MIB)).unwrap();
    let cache = Cache::at(disk.path().join("cache"));
    cache.import(&file, &source(), &mut |_| ()).unwrap_err();
    assert_eq!(names(&cache.folder(&source())), [".kindling.lock"]);
}
