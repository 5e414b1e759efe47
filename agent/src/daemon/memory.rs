//! What the kernel says about the node's memory, read from the files below `/proc` and `/sys`.
//!
//! The parsers are pure. The root of `/proc` is a setting: a simulation puts a `meminfo` of its own there.

pub mod buddyinfo;
pub mod meminfo;
pub mod pressure;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use kindling_envelope::Bytes;
use nix::unistd::{SysconfVar, sysconf};

pub use meminfo::MemInfo;

/// The files are a few kilobytes; whatever is longer is none of the kernel's.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// How much of a foreign line an error repeats.
const MAX_QUOTED: usize = 80;

/// What was read at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reading {
    /// From `meminfo`.
    pub memory: MemInfo,
    /// Free in blocks of at least 2 MiB; `None` where there is no `buddyinfo`.
    pub large_blocks: Option<Bytes>,
    /// Parts per million of the last ten seconds; `None` where the kernel does not count them.
    pub stalled_ppm: Option<u64>,
}

/// Why the memory is not known.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// A file can't be read.
    #[error("{} can't be read: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line is not as the kernel writes it.
    #[error("{}, line {number}: {text:?} is not {expected}", path.display())]
    Line {
        /// Of which file.
        path: PathBuf,
        /// Counted from 1.
        number: usize,
        /// The line, at most the beginning of it.
        text: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A line is not there.
    #[error("{} has no line {field}", path.display())]
    Missing {
        /// In which file.
        path: PathBuf,
        /// What it begins with.
        field: &'static str,
    },
    /// The numbers contradict each other.
    #[error("{} can't be true: {total} in total, {available} available, {free} free", path.display())]
    Absurd {
        /// Which file.
        path: PathBuf,
        /// `MemTotal`.
        total: Bytes,
        /// `MemAvailable`.
        available: Bytes,
        /// `MemFree`.
        free: Bytes,
    },
    /// The system does not say its page size.
    #[error("the system does not say its page size")]
    PageSize,
}

impl MemoryError {
    fn line(path: &Path, index: usize, text: &str, expected: &'static str) -> Self {
        let text = text.chars().take(MAX_QUOTED).collect();
        Self::Line { path: path.to_owned(), number: index + 1, text, expected }
    }
}

/// Reads the files of one node.
#[derive(Debug, Clone)]
pub struct Reader {
    meminfo: PathBuf,
    buddyinfo: PathBuf,
    pressure: PathBuf,
    page_bytes: u64,
}

impl Reader {
    /// A reader of the files below this folder, usually `/proc`.
    ///
    /// # Errors
    /// [`MemoryError::PageSize`].
    pub fn new(procfs_root: &Path) -> Result<Self, MemoryError> {
        let page_bytes = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|bytes| u64::try_from(bytes).ok());
        Ok(Self {
            meminfo: procfs_root.join("meminfo"),
            buddyinfo: procfs_root.join("buddyinfo"),
            pressure: procfs_root.join("pressure/memory"),
            page_bytes: page_bytes.filter(|bytes| *bytes > 0).ok_or(MemoryError::PageSize)?,
        })
    }

    /// What the kernel says now. It answers from its own memory, so this blocks for microseconds.
    ///
    /// # Errors
    /// [`MemoryError`] naming the file and the line.
    pub fn read(&self) -> Result<Reading, MemoryError> {
        let memory = meminfo::parse(&text(&self.meminfo)?, &self.meminfo)?;
        let large_blocks = text_if_there(&self.buddyinfo)?
            .map(|text| buddyinfo::large_blocks(&text, self.page_bytes, &self.buddyinfo))
            .transpose()?;
        let stalled_ppm =
            text_if_there(&self.pressure)?.map(|text| pressure::stalled_ppm(&text, &self.pressure)).transpose()?;
        Ok(Reading { memory, large_blocks, stalled_ppm })
    }
}

/// The machine's name, where its firmware says it.
pub fn product(sysfs_root: &Path) -> Option<String> {
    let places = ["devices/virtual/dmi/id/product_name", "firmware/devicetree/base/model"];
    places.iter().find_map(|place| {
        let text = text(&sysfs_root.join(place)).ok()?;
        let name: String = text.trim_matches(|letter: char| letter == '\0' || letter.is_whitespace()).to_owned();
        let is_name = !name.is_empty() && !name.chars().any(char::is_control);
        is_name.then(|| name.chars().take(MAX_QUOTED).collect())
    })
}

fn text(path: &Path) -> Result<String, MemoryError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut bytes));
    read.map_err(|source| MemoryError::Read { path: path.to_owned(), source })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// `None` where the kernel was built or started without it.
fn text_if_there(path: &Path) -> Result<Option<String>, MemoryError> {
    match text(path) {
        Ok(text) => Ok(Some(text)),
        Err(MemoryError::Read { source, .. })
            if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::Unsupported) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> tempfile::TempDir {
        let folder = tempfile::Builder::new().prefix("kindling-agent-memory-").tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("pressure")).unwrap();
        folder
    }

    #[test]
    fn this_machine_is_read() {
        let reading = Reader::new(Path::new("/proc")).unwrap().read().unwrap();
        assert!(reading.memory.total >= reading.memory.available && reading.memory.available > Bytes(0));
        assert!(reading.large_blocks.is_none_or(|large| large <= reading.memory.total), "{reading:?}");
    }

    #[test]
    fn a_folder_with_a_meminfo_is_a_node_and_its_rewriting_is_seen() {
        let scratch = scratch();
        let folder = scratch.path();
        let reader = Reader::new(folder).unwrap();
        for available in [900, 400] {
            let text = format!("MemTotal: 1000 kB\nMemFree: 300 kB\nMemAvailable: {available} kB\n");
            std::fs::write(folder.join("meminfo"), text).unwrap();
            let reading = reader.read().unwrap();
            assert_eq!(reading.memory.available, Bytes(available << 10));
            assert_eq!((reading.large_blocks, reading.stalled_ppm), (None, None));
        }
    }

    #[test]
    fn a_missing_meminfo_and_foreign_bytes_are_errors_that_name_the_file() {
        let scratch = scratch();
        let folder = scratch.path();
        let reader = Reader::new(folder).unwrap();
        assert!(reader.read().unwrap_err().to_string().contains("meminfo can't be read"), "absent");
        std::fs::write(folder.join("meminfo"), "MemTotal: 10 kB\nMemFree: 3 kB\nMemAvailable: 4 kB\n").unwrap();
        std::fs::write(folder.join("buddyinfo"), b"\xff\xfe\x00\n").unwrap();
        let error = reader.read().unwrap_err().to_string();
        assert!(error.contains("buddyinfo, line 1: "), "{error}");
    }

    #[test]
    fn the_firmware_names_the_machine_or_nobody_does() {
        let scratch = scratch();
        let folder = scratch.path();
        assert_eq!(product(folder), None);
        let tree = folder.join("firmware/devicetree/base");
        std::fs::create_dir_all(&tree).unwrap();
        std::fs::write(tree.join("model"), b"Some Board Rev 1\0").unwrap();
        assert_eq!(product(folder).as_deref(), Some("Some Board Rev 1"));
        let dmi = folder.join("devices/virtual/dmi/id");
        std::fs::create_dir_all(&dmi).unwrap();
        std::fs::write(dmi.join("product_name"), "Some Box\n").unwrap();
        assert_eq!(product(folder).as_deref(), Some("Some Box"));
    }
}
