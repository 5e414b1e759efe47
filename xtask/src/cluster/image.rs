//! Makes a container image of one program, without docker, and imports it on a node.
//!
//! The image is a docker archive of one layer: the program, the shared libraries that it needs, certificate authorities
//! and the user 65532. The same content as deploy/Dockerfile makes, in spirit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::holder::Holder;
use super::layout::CONTAINERD_SOCKET;
use super::{command, parts::hex};

/// The name that charts and tests use for Kindling's image here.
pub const KINDLING_IMAGE: &str = "localhost/kindling:dev";

const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
const PASSWD: &str = "root:x:0:0:root:/root:/sbin/nologin\nkindling:x:65532:65532:kindling:/tmp:/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nkindling:x:65532:\n";

/// What to make.
pub struct Image<'a> {
    /// Like `localhost/kindling:dev`.
    pub name: &'a str,
    /// It becomes `/usr/bin/<its file name>` and the entrypoint.
    pub binary: &'a Path,
}

struct Entry {
    content: Vec<u8>,
    mode: u32,
}

impl Image<'_> {
    /// Writes the image's archive.
    pub fn write(&self, archive: &Path) -> anyhow::Result<()> {
        let layer = layer(&self.files()?).context("write the image's layer")?;
        let entrypoint = self.entrypoint()?;
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": {
                "Entrypoint": [entrypoint],
                "User": "65532:65532",
                "WorkingDir": "/",
                "Env": ["PATH=/usr/bin", format!("SSL_CERT_FILE={AUTHORITIES}")],
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", hex(&Sha256::digest(&layer)))]},
            "history": [{"created_by": "cargo xtask cluster"}],
        })
        .to_string();
        let config_name = format!("{}.json", hex(&Sha256::digest(&config)));
        let manifest = json!([{"Config": config_name, "RepoTags": [self.name], "Layers": ["layer.tar"]}]).to_string();
        let files =
            [("layer.tar", layer), (&config_name, config.into_bytes()), ("manifest.json", manifest.into_bytes())];
        let entries = files.map(|(name, content)| (PathBuf::from(name), Entry { content, mode: 0o644 }));
        let bytes = tar(&[], &BTreeMap::from(entries))?;
        std::fs::write(archive, bytes).with_context(|| format!("write {}", archive.display()))
    }

    fn entrypoint(&self) -> anyhow::Result<String> {
        let name = self.binary.file_name().and_then(|name| name.to_str()).context("the program should have a name")?;
        Ok(format!("/usr/bin/{name}"))
    }

    fn files(&self) -> anyhow::Result<BTreeMap<PathBuf, Entry>> {
        ensure!(self.binary.is_file(), "{} is not a file: build it first", self.binary.display());
        let mut files = BTreeMap::new();
        let mut add = |path: &Path, content: Vec<u8>, mode| {
            files.insert(path.strip_prefix("/").unwrap_or(path).to_owned(), Entry { content, mode });
        };
        add(Path::new(&self.entrypoint()?), read(self.binary)?, 0o755);
        for library in libraries(self.binary)? {
            add(&library, read(&library)?, 0o755);
        }
        if Path::new(AUTHORITIES).exists() {
            add(Path::new(AUTHORITIES), read(Path::new(AUTHORITIES))?, 0o644);
        }
        for (path, content) in
            [("/etc/passwd", PASSWD), ("/etc/group", GROUP), ("/etc/nsswitch.conf", "hosts: files dns\n")]
        {
            add(Path::new(path), content.into(), 0o644);
        }
        Ok(files)
    }
}

/// Imports an archive on a node. `ctr` unpacks by mounting, so it must run among the node's mounts.
pub fn import(node: Holder, archive: &Path) -> anyhow::Result<()> {
    let mut words = node.enter();
    words.extend(
        ["ctr", "--address", CONTAINERD_SOCKET, "--namespace", "k8s.io", "images", "import"].map(str::to_owned),
    );
    command::output(command::command(&words).arg(archive)).map(drop)
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("read {}", file.display()))
}

/// The shared libraries of a program and its loader, under the paths by which the loader looks for them.
fn libraries(binary: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let ldd = Command::new("ldd").arg(binary).output().context("start ldd")?;
    let said = String::from_utf8_lossy(&ldd.stdout).into_owned() + &String::from_utf8_lossy(&ldd.stderr);
    ensure!(!said.contains("not found"), "{} lacks a library: {said}", binary.display());
    let is_static = said.contains("not a dynamic executable") || said.contains("statically linked");
    ensure!(ldd.status.success() || is_static, "ldd {} failed: {said}", binary.display());
    Ok(parse_ldd(&said))
}

fn parse_ldd(said: &str) -> Vec<PathBuf> {
    let path_of = |line: &str| {
        let path = line.split_once("=>").map_or(line, |(_, path)| path).split_whitespace().next()?;
        path.starts_with('/').then(|| PathBuf::from(path))
    };
    said.lines().filter(|line| line.contains(" (0x")).filter_map(path_of).collect()
}

/// The layer: every parent folder once, and a `/tmp` that all may write to.
fn layer(files: &BTreeMap<PathBuf, Entry>) -> anyhow::Result<Vec<u8>> {
    let mut folders: BTreeMap<PathBuf, u32> = BTreeMap::from([("tmp".into(), 0o1777), ("root".into(), 0o700)]);
    for file in files.keys() {
        for parent in file.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
            folders.entry(parent.to_owned()).or_insert(0o755);
        }
    }
    tar(&folders.into_iter().collect::<Vec<_>>(), files)
}

/// Owned by root and dated 1970, so that the same program gives the same image.
fn tar(folders: &[(PathBuf, u32)], files: &BTreeMap<PathBuf, Entry>) -> anyhow::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let header = |kind, mode, size| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header
    };
    for (folder, mode) in folders {
        archive.append_data(&mut header(tar::EntryType::Directory, *mode, 0), folder, std::io::empty())?;
    }
    for (path, Entry { content, mode }) in files {
        let size = u64::try_from(content.len())?;
        archive.append_data(&mut header(tar::EntryType::Regular, *mode, size), path, content.as_slice())?;
    }
    Ok(archive.into_inner()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_under_the_loaders_paths() {
        let said = "\tlinux-vdso.so.1 (0x00007ffe)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(parse_ldd(said), expected);
        assert!(parse_ldd("\tnot a dynamic executable\n").is_empty());
    }

    #[test]
    fn layer_has_every_folder_before_its_files_and_a_tmp_for_all() {
        let files = BTreeMap::from([(PathBuf::from("usr/bin/kindling"), Entry { content: vec![1], mode: 0o755 })]);
        let bytes = layer(&files).expect("should be written");
        let mut archive = tar::Archive::new(bytes.as_slice());
        let entries = archive.entries().expect("should be read").map(|entry| {
            let entry = entry.expect("should be whole");
            let path = entry.path().expect("should have a path").display().to_string();
            (path, entry.header().mode().expect("should have a mode"))
        });
        let expected =
            [("root", 0o700), ("tmp", 0o1777), ("usr", 0o755), ("usr/bin", 0o755), ("usr/bin/kindling", 0o755)];
        assert_eq!(entries.collect::<Vec<_>>(), expected.map(|(path, mode)| (path.to_owned(), mode)));
    }
}
