//! Heads of remote files, laid down as files of their true length with holes where the rest would be.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use kindling_models::read_at::{FileBytes, ReadAt};
use kindling_models::safetensors::read_header;

/// A folder for the heads of one checkpoint; it goes when this does.
pub(crate) struct Heads {
    folder: PathBuf,
}

impl Heads {
    /// A new one.
    pub(crate) fn new() -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("kindling-heads-{}-{number}", std::process::id()));
        // Left behind by a process of this number that was killed.
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir_all(&folder)?;
        Ok(Self { folder })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A file of `total_bytes` that begins with `head`.
    pub(crate) fn lay(&self, name: &str, head: &[u8], total_bytes: u64) -> io::Result<PathBuf> {
        let path = self.folder.join(name);
        let file = File::create(&path)?;
        file.set_len(total_bytes)?;
        file.write_all_at(head, 0)?;
        if name.ends_with(".safetensors") {
            lay_scales(&file, &path)?;
        }
        Ok(path)
    }
}

impl Drop for Heads {
    fn drop(&mut self) {
        // Nobody is there to be told; the folder of temporary files is swept by the system.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The reader looks at scales while it opens: one of 0 could not be divided by. Their values change no size.
fn lay_scales(file: &File, path: &Path) -> io::Result<()> {
    // What is wrong with a head, the runtime's reader says better.
    let Ok(tensors) = read_header(&FileBytes::open(path)?) else { return Ok(()) };
    for tensor in tensors.iter().filter(|tensor| tensor.name.contains("scale")) {
        let one: &[u8] = match tensor.element.name() {
            "F32" => &[0, 0, 0x80, 0x3f],
            "BF16" => &[0x80, 0x3f],
            "F16" => &[0, 0x3c],
            _ => continue,
        };
        file.write_all_at(&one.repeat(tensor.num_bytes / one.len()), tensor.offset)?;
    }
    Ok(())
}

/// The beginning of a file, which tells how much more of it was asked for.
pub(crate) struct Beginning {
    pub(crate) bytes: Vec<u8>,
    pub(crate) total_bytes: u64,
    wanted: AtomicU64,
}

impl Beginning {
    pub(crate) fn new(bytes: Vec<u8>, total_bytes: u64) -> Self {
        Self { bytes, total_bytes, wanted: AtomicU64::new(0) }
    }

    /// Where the last byte that was asked for ends, if it is not here.
    pub(crate) fn lacks(&self) -> Option<u64> {
        let wanted = self.wanted.load(Ordering::Relaxed);
        (wanted > self.bytes.len() as u64).then_some(wanted)
    }
}

impl ReadAt for Beginning {
    fn num_bytes(&self) -> u64 {
        self.total_bytes
    }

    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        self.wanted.fetch_max(offset.saturating_add(out.len() as u64), Ordering::Relaxed);
        self.bytes.read_exact_at(out, offset)
    }
}
