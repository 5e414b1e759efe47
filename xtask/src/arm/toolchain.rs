//! A second Rust, with the standard library for Arm, out of Debian's packages; gcc to link and qemu to run.
//!
//! Rust's own servers may be out of reach where Debian's archive is not, and Debian builds its `rustc-web` for Arm too.
//! Versions are read from the archive, never written here: packages move within a release.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::debian::{Archive, Package, install_missing};
use crate::shell::{cargo, command, read, root, user_cache};

/// What is compiled for.
pub const TARGET: &str = "aarch64-unknown-linux-gnu";

/// Debian's own architecture names, and where its packages put shared libraries.
const HOST: &str = "amd64";
const ARM: &str = "arm64";
const HOST_LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

const COMPILER: &str = "rustc-web";
const LIBRARY: &str = "libstd-rust-web-dev";
/// What the compiler needs and no machine has: its own library and LLVM. Names carry versions.
const COMES_WITH_COMPILER: [&str; 2] = ["libstd-rust-", "libllvm"];

const LINKER: &str = "aarch64-linux-gnu-gcc";
const EMULATOR: &str = "qemu-aarch64-static";
/// Where Debian's cross libc lies.
const SYSROOT: &str = "/usr/aarch64-linux-gnu";
const NEEDED: &[(&str, &str)] = &[
    (LINKER, "gcc-aarch64-linux-gnu"),
    ("/usr/aarch64-linux-gnu/lib/libc.so", "libc6-dev-arm64-cross"),
    (EMULATOR, "qemu-user-static"),
];

/// Everything that compiles for Arm and runs what was compiled.
pub struct Toolchain {
    prefix: PathBuf,
    /// What the compiler says of itself.
    pub version: String,
}

/// Takes the toolchain from the user's cache, or fetches it.
///
/// # Errors
/// Why it cannot be had here.
pub fn prepare() -> anyhow::Result<Toolchain> {
    ensure!(cfg!(all(target_os = "linux", target_arch = "x86_64")), "only known to work on Linux on x86-64");
    install_missing(NEEDED).context("install gcc, libc and qemu for Arm (needs root, once)")?;
    let folder = user_cache()?.join("kindling/arm");
    let prefix = folder.join("toolchain");
    if let Ok(version) = compiler_version(&prefix) {
        return Ok(Toolchain { prefix, version });
    }
    fetch(&folder, &prefix)?;
    let version = compiler_version(&prefix)?;
    Ok(Toolchain { prefix, version })
}

impl Toolchain {
    /// cargo with this compiler for Arm; what it runs is run on `machine`.
    pub fn cargo(&self, arguments: &[&str], machine: &str) -> anyhow::Result<Command> {
        let (first, rest) = arguments.split_first().context("cargo should have arguments")?;
        let mut cargo = cargo(&[first, "--target", TARGET, "--target-dir"]);
        cargo.arg(self.target_folder()?).args(rest);
        cargo.env("RUSTC", self.prefix.join("usr/bin/rustc")).env("LD_LIBRARY_PATH", self.prefix.join(HOST_LIBRARIES));
        // Flags for this machine's processor are none for Arm.
        cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
        cargo.env("CC_aarch64_unknown_linux_gnu", LINKER);
        cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", LINKER);
        let runner = format!("{EMULATOR} -cpu {machine} -L {SYSROOT}");
        cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", runner);
        Ok(cargo)
    }

    /// A machine that runs the program which is its argument.
    pub fn emulator(&self, machine: &str) -> Command {
        command(EMULATOR, &["-cpu", machine, "-L", SYSROOT])
    }

    /// Beside what this machine's own compiler builds: the two must not share a folder.
    pub fn target_folder(&self) -> anyhow::Result<PathBuf> {
        Ok(crate::binary::target_folder()?.join("arm"))
    }
}

fn compiler_version(prefix: &Path) -> anyhow::Result<String> {
    let mut rustc = command(prefix.join("usr/bin/rustc"), &["--version"]);
    read(rustc.env("LD_LIBRARY_PATH", prefix.join(HOST_LIBRARIES)))
}

fn fetch(folder: &Path, prefix: &Path) -> anyhow::Result<()> {
    let (lists, unfinished) = (folder.join("apt"), folder.join("unfinished"));
    for stale in [prefix, &lists, &unfinished] {
        if stale.exists() {
            std::fs::remove_dir_all(stale).with_context(|| format!("remove {}", stale.display()))?;
        }
    }
    std::fs::create_dir_all(&unfinished).with_context(|| format!("make {}", unfinished.display()))?;
    println!("fetching Debian's Rust for Arm (126 MB, once; 0.6 GB unpacked) into {}", prefix.display());
    let (host, arm) = (Archive::fetch(HOST, &lists)?, Archive::fetch(ARM, &lists)?);
    let packages = compiler_packages(|name| host.package(name))?;
    let library = arm.package(LIBRARY)?;
    check_versions(&packages[0].version, &library.version, &std::fs::read_to_string(root().join("Cargo.toml"))?)?;
    for package in &packages {
        host.unpack(package, &unfinished)?;
    }
    arm.unpack(&library, &unfinished)?;
    std::fs::remove_dir_all(&lists)?;
    std::fs::rename(&unfinished, prefix).with_context(|| format!("move the toolchain to {}", prefix.display()))
}

/// The compiler, and what comes with it.
fn compiler_packages(look_up: impl Fn(&str) -> anyhow::Result<Package>) -> anyhow::Result<Vec<Package>> {
    let mut packages = vec![look_up(COMPILER)?];
    let mut next = 0;
    while next < packages.len() {
        for name in packages[next].depends.clone() {
            let is_known = packages.iter().any(|package| package.name == name);
            if !is_known && COMES_WITH_COMPILER.iter().any(|start| name.starts_with(start)) {
                packages.push(look_up(&name)?);
            }
        }
        next += 1;
    }
    Ok(packages)
}

/// A library fits the compiler of its own build only, and the workspace needs a certain age.
fn check_versions(compiler: &str, library: &str, manifest: &str) -> anyhow::Result<()> {
    ensure!(
        compiler == library,
        "Debian's {COMPILER} is {compiler}, its library for Arm {library}: they do not go together"
    );
    let needed = manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap_or_default();
    let needed = needed.trim_matches('"');
    let number = |version: &str| {
        let mut parts = version.split(['.', '+']).map(|part| part.parse::<u32>().ok());
        Some((parts.next()??, parts.next()??))
    };
    let (have, want) = (number(compiler), number(needed));
    ensure!(want.is_some(), "the workspace's rust-version {needed:?} is no version");
    ensure!(have >= want, "Debian's {COMPILER} is {compiler}, older than the {needed} that this workspace needs");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "[workspace.package]\nrust-version = \"1.95\"\n";

    #[test]
    fn compiler_and_library_must_be_of_one_build_and_new_enough() {
        assert!(check_versions("1.96.0+dfsg1-1~deb12u2", "1.96.0+dfsg1-1~deb12u2", MANIFEST).is_ok());
        assert!(check_versions("1.96.0+dfsg1-1~deb12u2", "1.96.0+dfsg1-1~deb12u1", MANIFEST).is_err());
        assert!(check_versions("1.85.0+dfsg3-1", "1.85.0+dfsg3-1", MANIFEST).is_err());
        assert!(check_versions("2.0.0+dfsg3-1", "2.0.0+dfsg3-1", MANIFEST).is_ok());
    }

    #[test]
    fn the_compilers_own_libraries_come_with_it_and_the_systems_do_not() {
        let look_up = |name: &str| {
            let depends: &[&str] = match name {
                "rustc-web" => &["libc6", "libstd-rust-web-dev", "gcc"],
                "libstd-rust-web-dev" => &["libstd-rust-web-1.96"],
                "libstd-rust-web-1.96" => &["libc6", "libllvm22", "libstdc++6"],
                "libllvm22" => &["libxml2"],
                other => panic!("{other} should not be looked up"),
            };
            let depends = depends.iter().map(ToString::to_string).collect();
            Ok(Package { name: name.to_owned(), version: "1".to_owned(), depends })
        };
        let names: Vec<_> = compiler_packages(look_up).unwrap().into_iter().map(|package| package.name).collect();
        assert_eq!(names, ["rustc-web", "libstd-rust-web-dev", "libstd-rust-web-1.96", "libllvm22"]);
    }
}
