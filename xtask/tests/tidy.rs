//! `tidy`: what must stay true of the tree itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const MAX_LINES: usize = 400;
const MAX_MAIN_LINES: usize = 60;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask has a parent").to_owned()
}

/// Files that git knows or would add.
fn files() -> Vec<String> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git should list the files");
    let listed = String::from_utf8(output.stdout).expect("paths are UTF-8");
    let files: Vec<String> = listed.lines().filter(|path| root().join(path).is_file()).map(str::to_owned).collect();
    assert!(files.len() > 50, "git listed only {} files", files.len());
    files
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("read {path}: {error}"))
}

/// Whether a Rust file is code of the product or of xtask: no tests, nothing generated.
fn is_source(path: &str) -> bool {
    let is_test = path.contains("/tests/") || path.ends_with("/tests.rs") || path.starts_with("e2e/tests/");
    path.ends_with(".rs") && !is_test && !path.contains("/generated/")
}

/// Lines up to the tests at the end of a file.
fn lines_without_tests(text: &str) -> usize {
    let end = text.find("\n#[cfg(test)]\nmod ").unwrap_or(text.len());
    text[..end].lines().count()
}

fn fail_if_any(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn files_hold_one_thing() {
    let mut complaints = Vec::new();
    for path in files().iter().filter(|path| is_source(path)) {
        let count = lines_without_tests(&read(path));
        let limit = if path.ends_with("/main.rs") && !path.starts_with("xtask/") { MAX_MAIN_LINES } else { MAX_LINES };
        if count > limit {
            complaints.push(format!("{path}: {count} lines without tests, at most {limit}"));
        }
    }
    fail_if_any(complaints);
}

#[test]
fn names_say_what_a_file_is() {
    let forbidden = ["utils.rs", "util.rs", "helpers.rs", "common.rs", "types.rs", "misc.rs"];
    let is_test = |path: &str| path.contains("/tests/");
    let bad = |path: &&String| {
        let name = path.rsplit('/').next().unwrap_or_default();
        (forbidden.contains(&name) && !is_test(path)) || (name == "mod.rs" && !is_test(path))
    };
    fail_if_any(files().iter().filter(bad).map(|path| format!("{path}: the name says nothing")).collect());
}

#[test]
fn nothing_unfinished_and_no_machine_is_named() {
    // Written in two halves, so that this file does not find itself.
    let marks = [
        ["todo", "!("].concat(),
        ["unimplemented", "!("].concat(),
        ["FIX", "ME"].concat(),
        ["for", " now,"].concat(),
        ["/work", "/main"].concat(),
        ["/work", "/wt"].concat(),
        ["/root", "/."].concat(),
    ];
    let mut complaints = Vec::new();
    for path in files().iter().filter(|path| !path.ends_with(".json") && !path.ends_with(".bin")) {
        let Ok(text) = fs::read_to_string(root().join(path)) else { continue };
        for (number, line) in text.lines().enumerate() {
            for mark in marks.iter().filter(|mark| line.contains(mark.as_str())) {
                complaints.push(format!("{path}:{}: {mark}", number + 1));
            }
        }
    }
    fail_if_any(complaints);
}

#[test]
fn every_folder_with_a_crate_is_in_architecture() {
    let architecture = read("ARCHITECTURE.md");
    let manifests = files().into_iter().filter(|path| path.ends_with("/Cargo.toml") && !path.contains("/fuzz/"));
    let missing = manifests
        .map(|path| path.trim_end_matches("Cargo.toml").to_owned())
        .filter(|folder| !architecture.contains(folder.as_str()))
        .map(|folder| format!("ARCHITECTURE.md does not mention {folder}"));
    fail_if_any(missing.collect());
}

#[test]
fn decisions_are_numbered_once() {
    let mut by_number: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in files().into_iter().filter(|path| path.starts_with("docs/adr/") && path.ends_with(".md")) {
        let name = path.rsplit('/').next().unwrap_or_default();
        by_number.entry(name.chars().take(4).collect()).or_default().push(path);
    }
    let expected: Vec<String> = (1..=by_number.len()).map(|number| format!("{number:04}")).collect();
    assert_eq!(by_number.keys().cloned().collect::<Vec<_>>(), expected, "numbers run from 0001 without gaps");
    let twice = by_number.values().filter(|paths| paths.len() > 1).map(|paths| paths.join(" and "));
    fail_if_any(twice.collect());
}

#[test]
fn links_in_documents_resolve() {
    let mut complaints = Vec::new();
    for path in files().iter().filter(|path| path.ends_with(".md")) {
        let folder = root().join(path).parent().expect("a file has a folder").to_owned();
        for target in read(path).split("](").skip(1).filter_map(|rest| rest.split([')', '#', ' ']).next()) {
            let is_elsewhere = target.is_empty() || target.contains("://") || target.starts_with("mailto:");
            if !is_elsewhere && !folder.join(target).exists() {
                complaints.push(format!("{path}: {target} does not exist"));
            }
        }
    }
    fail_if_any(complaints);
}

#[test]
fn every_dependency_has_its_reason() {
    let manifest = read("Cargo.toml");
    let section = manifest.split("[workspace.dependencies]").nth(1).and_then(|rest| rest.split("\n[").next());
    let mut complaints = Vec::new();
    let mut has_reason = false;
    for line in section.expect("the section exists").lines() {
        if line.starts_with('#') {
            has_reason = true;
        } else if line.trim().is_empty() {
            has_reason = false;
        } else if !line.contains("path = ") && !has_reason {
            complaints.push(format!("Cargo.toml: no reason above `{line}`"));
        }
    }
    fail_if_any(complaints);
}

/// The text between the first two `"` after `mark`.
fn quoted_after<'a>(text: &'a str, mark: &str) -> Option<&'a str> {
    text.split(mark).nth(1)?.split('"').nth(1)
}

#[test]
fn every_architecture_is_listed_and_has_a_golden() {
    const IMPL: &str = "impl Architecture for ";
    let list = read("runtime/models/src/architecture.rs");
    let listed = list.split("ARCHITECTURES:").nth(1).and_then(|rest| rest.split(';').next()).expect("there is a list");
    let goldens: Vec<String> = files()
        .into_iter()
        .filter(|path| path.starts_with("runtime/models/tests/golden/") && path.ends_with("/config.json"))
        .filter(|path| root().join(path.replace("config.json", "logits.json")).is_file())
        .map(|path| read(&path))
        .collect();
    let mut complaints = Vec::new();
    let mut count = 0;
    for path in files().iter().filter(|path| path.starts_with("runtime/models/src/") && is_source(path)) {
        let text = read(path);
        let Some(name) = text.split(IMPL).nth(1).and_then(|rest| rest.split_whitespace().next()) else { continue };
        count += 1;
        if !listed.contains(&format!("&{name}")) {
            complaints.push(format!("{path}: {name} is not in ARCHITECTURES"));
        }
        let class = quoted_after(&text[text.find(IMPL).unwrap_or(0)..], "fn name(&self)").unwrap_or(name);
        if !goldens.iter().any(|config| config.contains(&format!("\"{class}\""))) {
            complaints.push(format!("{path}: no golden in runtime/models/tests/golden is a {class}"));
        }
    }
    assert!(count > 1, "only {count} architectures were found");
    fail_if_any(complaints);
}
