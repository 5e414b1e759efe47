//! Debian packages: what is missing is installed, and what must not be installed is unpacked into a folder.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

use crate::shell::{command, read};

/// Installs the packages whose program (or file, if it has a slash) is missing, and says which.
///
/// # Errors
/// If there is no apt-get, or it fails.
pub fn install_missing(needed: &[(&str, &str)]) -> anyhow::Result<()> {
    let is_missing = |needed: &str| {
        if needed.contains('/') { !Path::new(needed).exists() } else { !is_installed(needed) }
    };
    let mut missing: Vec<&str> =
        needed.iter().filter(|(needed, _)| is_missing(needed)).map(|&(_, package)| package).collect();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    ensure!(is_installed("apt-get"), "missing and no apt-get to install it: {}", missing.join(", "));
    println!("installing the Debian packages {}", missing.join(" "));
    // Of two that install at once apt-get refuses one.
    let lock = std::fs::File::create(std::env::temp_dir().join("kindling-xtask-apt.lock")).context("make a lock")?;
    lock.lock().context("wait for another installation")?;
    let apt_get = || {
        let mut apt_get = command("apt-get", &["-q"]);
        apt_get.env("DEBIAN_FRONTEND", "noninteractive");
        apt_get
    };
    read(apt_get().arg("update"))?;
    read(apt_get().args(["install", "-y", "--no-install-recommends"]).args(&missing))?;
    Ok(())
}

/// Whether a program is in the search path, or in the folders that only root's has.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(Into::into))
        .any(|folder| folder.join(program).is_file())
}

/// What Debian offers for one architecture, looked up in lists of our own: no root, no foreign architecture on this machine.
pub struct Archive {
    architecture: &'static str,
    folder: PathBuf,
}

/// A package as the archive offers it today.
#[derive(Debug, PartialEq, Eq)]
pub struct Package {
    /// `rustc-web`.
    pub name: String,
    /// As Debian writes it: `1.96.0+dfsg1-1~deb12u2`.
    pub version: String,
    /// Names of the packages that it depends on.
    pub depends: Vec<String>,
}

impl Archive {
    /// Fetches the lists of an architecture into `folder`.
    ///
    /// # Errors
    /// If there is no apt-get. One that fails says so: what it could not fetch is missed later.
    pub fn fetch(architecture: &'static str, folder: &Path) -> anyhow::Result<Self> {
        let archive = Self { architecture, folder: folder.join(architecture) };
        for part in ["lists/partial", "cache/archives/partial"] {
            std::fs::create_dir_all(archive.folder.join(part)).context("make a folder for Debian's lists")?;
        }
        if let Err(error) = read(archive.apt("apt-get").arg("update")) {
            println!("Debian's lists for {architecture} may be incomplete: {error:#}");
        }
        Ok(archive)
    }

    /// What is offered under a name.
    ///
    /// # Errors
    /// If there is nothing.
    pub fn package(&self, name: &str) -> anyhow::Result<Package> {
        let shown = read(self.apt("apt-cache").args(["show", "--no-all-versions", name])).unwrap_or_default();
        parse(&shown).with_context(|| format!("Debian offers no package {name} for {}", self.architecture))
    }

    /// Downloads a package and unpacks it below `into`.
    ///
    /// # Errors
    /// If the download or the unpacking fails.
    pub fn unpack(&self, package: &Package, into: &Path) -> anyhow::Result<()> {
        let downloads = self.folder.join("downloads");
        std::fs::create_dir_all(&downloads)?;
        let Package { name, version, .. } = package;
        read(self.apt("apt-get").arg("download").arg(format!("{name}={version}")).current_dir(&downloads))?;
        for entry in std::fs::read_dir(&downloads)? {
            let path = entry?.path();
            read(command("dpkg-deb", &["--extract"]).arg(&path).arg(into))?;
            std::fs::remove_file(&path)?;
        }
        Ok(())
    }

    fn apt(&self, program: &str) -> Command {
        let folder = self.folder.display();
        let mut apt = command(program, &[]);
        apt.arg(format!("-oAPT::Architecture={0}", self.architecture));
        apt.arg(format!("-oAPT::Architectures={0}", self.architecture));
        apt.arg(format!("-oDir::State::Lists={folder}/lists")).arg(format!("-oDir::Cache={folder}/cache"));
        // The user that apt would drop to cannot write into ours.
        apt.arg("-oAPT::Sandbox::User=root");
        apt
    }
}

/// The first package of what `apt-cache show` prints.
fn parse(shown: &str) -> anyhow::Result<Package> {
    let field = |name: &str| {
        let line = shown.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.with_context(|| format!("no field {name}"))
    };
    let names = |depends: &str| {
        depends.split([',', '|']).filter_map(|one| Some(one.split_whitespace().next()?.to_owned())).collect()
    };
    let package = Package {
        name: field("Package")?.to_owned(),
        version: field("Version")?.to_owned(),
        depends: field("Depends").map(names).unwrap_or_default(),
    };
    if package.version.contains(char::is_whitespace) {
        bail!("{} has the odd version {:?}", package.name, package.version);
    }
    Ok(package)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_read_as_apt_cache_shows_them() {
        let shown = "Package: libstd-rust-web-1.96\nSource: rustc-web\nVersion: 1.96.0+dfsg1-1~deb12u2\n\
                     Depends: libc6 (>= 2.34), libllvm22, libstdc++6 (>= 11) | other\n\nPackage: second\n";
        let package = parse(shown).unwrap();
        assert_eq!(
            (package.name.as_str(), package.version.as_str()),
            ("libstd-rust-web-1.96", "1.96.0+dfsg1-1~deb12u2")
        );
        assert_eq!(package.depends, ["libc6", "libllvm22", "libstdc++6", "other"]);
        assert!(parse("N: Unable to locate package rustc-web\n").is_err());
    }
}
