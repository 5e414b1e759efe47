//! Weights come from a hub that fails, lies and repeats itself, onto disks that are full, and every model gets ready.
#![allow(clippy::print_stdout, reason = "what a story sees is printed")]

mod hub;
#[path = "../../../agent/tests/hub_server/server.rs"]
mod server;

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use hub::{Hub, SmallDisk, kill_agent};
use kindling_e2e::{Patience, Stage, story, until};
use serde_json::Value;
use server::{FILE, MIB, Ways, digest};

/// Between two pieces of 64 KiB on each of four streams: 6 MiB a second.
const SLOWLY: Duration = Duration::from_millis(40);

#[test]
fn a_download_that_is_cut_and_killed_goes_on_where_it_was() {
    story("cut", |stage| {
        let cuts = Some((6 * MIB, 8));
        let hub = Hub::start(stage, Ways { pause: SLOWLY, cuts, ..Ways::default() }, &[]);
        let length = hub.server.content().len() as u64;
        hub.apply("cut", "cut");

        // Eight streams are cut, and what they brought is kept. Then the agent's process is killed.
        let mut seen = Vec::new();
        progress_until(stage, "cut", &mut seen, |_| cuts_left(&hub) == 0);
        progress_until(stage, "cut", &mut seen, |bytes| bytes >= 54 * MIB as u64);
        println!("status.download: {seen:?} of {length}");
        assert!(seen.len() >= 4 && seen.is_sorted(), "progress is seen, and never goes back: {seen:?}");
        kill_agent(stage);
        let first = forget(&hub, Some((3 * MIB, 4)));
        assert!(first.num_requests > 8, "{first:?}");

        // The next process goes on, is cut, and its pod is deleted.
        let mut said = Vec::new();
        until("the next process is cut four times", Patience::PODS, || {
            said.extend(stage.condition("cut", "Downloaded").filter(|new| said.last() != Some(new)));
            // the fifth comes when four are over
            (hub.downloads().0 > 4).then_some(())
        });
        println!("{said:?}");
        let selector = ["-n", "kindling-system", "-l", "app.kubernetes.io/component=agent"];
        stage.kubectl().read(&[&["delete", "pods", "--wait=true"], &selector[..]].concat());
        let second = forget(&hub, None);

        hub.wait_answer("cut");
        hub.assert_whole("cut");
        let third = forget(&hub, None);
        println!("of {length} bytes: {first:#?}, {second:#?}, {third:#?}");
        let kept = (8 * 6 * MIB + 4 * 3 * MIB) as u64;
        assert!(third.sent <= length - kept, "what eight and four streams brought is not sent again");
        let sent = first.sent + second.sent + third.sent;
        assert!(sent < length + length / 2, "{sent} bytes for {length}");
    });
}

#[test]
fn what_the_hub_says_a_file_is_it_must_be() {
    story("lie", |stage| {
        let lie = "f00d".repeat(16);
        let hub = Hub::start(stage, Ways { wrong_digest: Some(lie.clone()), ..Ways::default() }, &[]);
        let content = hub.server.content();
        hub.apply("lie", "lie");
        let message = wait_failure(stage, "lie");
        for part in [FILE, &lie, &digest(&content)] {
            assert!(message.contains(part), "{part} is not in: {message}");
        }
        until("it is tried again", Patience::PODS, || {
            assert_eq!(stage.list("pods"), Vec::<Value>::new(), "no pod is made");
            (hub.downloads().1 >= 2 * content.len() as u64).then_some(())
        });
        until("nothing is left of it", Patience::PODS, || {
            assert!(!hub.names("lie").contains(&FILE.to_owned()), "nothing has the model's name");
            (hub.names("lie") == [".kindling.lock"]).then_some(())
        });
        assert_eq!(stage.list("pods"), Vec::<Value>::new(), "no pod is made");
        hub.server.change(|ways| ways.wrong_digest = None);
        hub.wait_answer("lie");
        hub.assert_whole("lie");
        println!("{} bytes were sent for {}", hub.server.reset(), content.len());
    });
}

#[test]
fn a_full_disk_is_said_and_room_is_enough() {
    story("full", |stage| {
        let Some(disk) = SmallDisk::mount(stage, 700) else {
            println!("SKIPPED: a small disk for the cache: there is no way into the node");
            return;
        };
        disk.fill(400);
        let hub = Hub::start(stage, Ways::default(), &[&format!("cache.hostPath={}", disk.path)]);
        hub.apply("full", "full");
        let message = wait_failure(stage, "full");
        // 98,362,432 bytes; of 300 MiB 512 must stay free
        for part in ["93.81 MiB more", "300.00 MiB are free", "305.81 MiB are missing", &disk.path] {
            assert!(message.contains(part), "{part} is not in: {message}");
        }
        assert_eq!((hub.downloads(), stage.list("pods")), ((0, 0), Vec::new()), "nothing was fetched");
        disk.make_room();
        hub.wait_answer("full");
        let file = format!("{}/{}/{FILE}", disk.path, hub.folder("full"));
        let found = disk.in_node(&["sha256sum", &file]);
        assert!(found.starts_with(&digest(&hub.server.content())), "{found}");
        println!("{}", disk.in_node(&["df", "-m", &disk.path]));
        // The pod must be off the disk before that goes.
        stage.kubectl().read(&["delete", "lm", "full", "-n", &stage.namespace]);
        until("no pod is left", Patience::PODS, || stage.list("pods").is_empty().then_some(()));
    });
}

#[test]
fn the_same_bytes_come_once_whoever_names_them() {
    story("twins", |stage| {
        let hub = Hub::start(stage, Ways { pause: SLOWLY / 4, ..Ways::default() }, &[]);
        let length = hub.server.content().len() as u64;
        for (model, repo) in [("one", "same"), ("two", "same"), ("three", "other")] {
            hub.apply(model, repo);
        }
        for model in ["one", "two", "three"] {
            hub.wait_answer(model);
        }
        let (num_requests, asked) = hub.downloads();
        let sent = hub.server.reset();
        println!(
            "three models of {length} bytes: {num_requests} requests for {asked} bytes, {sent} sent with the heads"
        );
        assert_eq!(asked, length, "one download");
        assert!(sent < length + length / 4, "{sent} bytes for {length}");
        hub.assert_whole("same");
        hub.assert_whole("other");
        let inode = |repo| std::fs::metadata(hub.folder_here(repo).join(FILE)).expect("the file").ino();
        assert_eq!(inode("same"), inode("other"), "they lie on the disk once");
    });
}

/// What the hub counted up to some moment.
#[derive(Debug)]
struct Counted {
    num_requests: usize,
    sent: u64,
}

/// Counts from nothing again, and cuts so many bodies from now on.
fn forget(hub: &Hub<'_>, cuts: Option<(usize, usize)>) -> Counted {
    hub.server.change(|ways| ways.cuts = cuts);
    // what was on its way to a process that ended is put on the wire for a moment more
    std::thread::sleep(Duration::from_millis(300));
    Counted { num_requests: hub.downloads().0, sent: hub.server.reset() }
}

fn cuts_left(hub: &Hub<'_>) -> usize {
    hub.server.ways.lock().expect("the ways").cuts.map_or(0, |(_, left)| left)
}

/// Follows `status.download` until it is so; adds each new number of bytes.
fn progress_until(stage: &Stage, model: &str, seen: &mut Vec<u64>, is_so: impl Fn(u64) -> bool) {
    until(&format!("{model} has come so far"), Patience::PODS, || {
        let status = stage.get("localmodel", model)?["status"].clone();
        let bytes = status["download"]["bytes"].as_u64()?;
        if seen.last() != Some(&bytes) {
            seen.push(bytes);
        }
        is_so(bytes).then_some(())
    });
}

/// What the failed download of a model says.
fn wait_failure(stage: &Stage, model: &str) -> String {
    let (_, _, message) = until(&format!("the download of {model} failed"), Patience::PODS, || {
        stage.condition(model, "Downloaded").filter(|(_, reason, _)| reason == "DownloadFailed")
    });
    println!("{model}: {message}");
    let ready = stage.condition(model, "Ready").expect("Ready");
    assert_eq!(ready, ("False".to_owned(), "DownloadFailed".to_owned(), message.clone()));
    message
}
