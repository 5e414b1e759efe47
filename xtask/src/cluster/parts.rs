//! Builds the node's programs from `e2e/cluster` once, into a cache folder named after what they were built from.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, ensure};
use sha2::{Digest, Sha256};

use super::{command, layout::Layout};
use crate::debian::is_installed;
use crate::shell::root;

/// The programs that a node runs.
pub struct Parts {
    /// All of Kubernetes and etcd: `kindling-test-node`.
    pub node: PathBuf,
    /// The only file of the pause image, and process 1 of a node.
    pub pause: PathBuf,
    /// Kubernetes' version, like `v1.36.3`.
    pub version: String,
}

/// The folder of the Go module.
pub fn source() -> PathBuf {
    root().join("e2e/cluster")
}

/// The programs from the cache, built if they are not there.
pub fn prepare(layout: &Layout) -> anyhow::Result<Parts> {
    let source = source();
    let go_mod = std::fs::read_to_string(source.join("go.mod")).context("read e2e/cluster/go.mod")?;
    let version = kubernetes_version(&go_mod).context("find the Kubernetes version in go.mod")?;
    ensure!(is_installed("go"), "go is needed to build the cluster's parts (1.26), and is not in the search path");
    let toolchain = command::output(Command::new("go").arg("version").current_dir(&source))?;
    ensure!(
        toolchain.contains(" go1.26."),
        "the cluster's parts need Go 1.26 (built with 1.27 the API serves a broken OpenAPI document); here is {}",
        toolchain.trim()
    );
    let flags = ldflags(version);
    let mut inputs = vec![("toolchain".to_owned(), toolchain.into_bytes()), ("flags".into(), flags.clone().into())];
    inputs.extend(sources(&source)?);
    let folder = layout.cache.join("parts").join(key(&inputs));
    let parts =
        Parts { node: folder.join("kindling-test-node"), pause: folder.join("pause"), version: version.to_owned() };
    if !(parts.node.exists() && parts.pause.exists()) {
        build(&source, &flags, &parts)?;
    }
    Ok(parts)
}

/// Every file that a build reads, in a fixed order.
fn sources(source: &Path) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let mut files = vec![source.join("go.mod"), source.join("go.sum")];
    for folder in [source.to_owned(), source.join("pause")] {
        let entries = std::fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))?;
        files.extend(
            entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.extension() == Some("go".as_ref())),
        );
    }
    files.sort();
    let named = |file: PathBuf| {
        let name = file.strip_prefix(source).unwrap_or(&file).display().to_string();
        std::fs::read(&file).with_context(|| format!("read {name}")).map(|content| (name, content))
    };
    files.into_iter().map(named).collect()
}

fn build(source: &Path, flags: &str, parts: &Parts) -> anyhow::Result<()> {
    println!("building Kubernetes {} once: about 7 minutes on two free cores, 4 GB of disk", parts.version);
    let began = Instant::now();
    for (package, program) in [("./pause", &parts.pause), (".", &parts.node)] {
        // Built beside and renamed: a build that was cut off leaves no program.
        let beside = program.with_extension("new");
        let mut go = Command::new("nice");
        go.args(["-n", "5", "go", "build", "-trimpath", "-ldflags", flags, "-o"]).arg(&beside).arg(package);
        command::show(go.current_dir(source).env("CGO_ENABLED", "0"))?;
        std::fs::rename(&beside, program).with_context(|| format!("write {}", program.display()))?;
    }
    println!("built in {} s", began.elapsed().as_secs());
    Ok(())
}

/// Without these every node would report v0.0.0.
fn ldflags(version: &str) -> String {
    let package = "k8s.io/component-base/version";
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    format!(
        "-s -w -X {package}.gitVersion={version} -X {package}.gitMajor={major} -X {package}.gitMinor={minor} \
         -X {package}.gitTreeState=clean"
    )
}

fn kubernetes_version(go_mod: &str) -> Option<&str> {
    go_mod.lines().find_map(|line| line.trim().trim_start_matches("require ").strip_prefix("k8s.io/kubernetes "))
}

/// Sixteen digits that change with every name and every byte.
fn key(inputs: &[(String, Vec<u8>)]) -> String {
    let mut hash = Sha256::new();
    for (name, content) in inputs {
        hash.update(format!("{name} {}\n", content.len()));
        hash.update(content);
    }
    hex(&hash.finalize())[..16].to_owned()
}

/// The digits of a checksum.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(content: &str) -> Vec<(String, Vec<u8>)> {
        vec![("go.sum".into(), content.into()), ("toolchain".into(), "go1.26.8".into())]
    }

    #[test]
    fn key_changes_with_the_content_and_only_then() {
        assert_eq!(key(&inputs("a")), key(&inputs("a")));
        assert_ne!(key(&inputs("a")), key(&inputs("b")));
        let moved = vec![("go.sum".into(), "".into()), ("atoolchain".into(), "go1.26.8".into())];
        assert_ne!(key(&inputs("a")), key(&moved));
    }

    #[test]
    fn version_comes_from_the_committed_module() {
        let go_mod = std::fs::read_to_string(source().join("go.mod")).expect("should be committed");
        let version = kubernetes_version(&go_mod).expect("should require Kubernetes");
        assert!(version.starts_with("v1.36."), "{version}");
        assert!(ldflags(version).contains("gitMinor=36"));
    }
}
