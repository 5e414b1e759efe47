//! Positioned reads: what both weight readers need of a file, and what tests and fuzzers give them from memory.
//!
//! Files are read with `pread`, never mapped: a mapped file that shrinks kills the process with a signal, a read
//! of it gives an error that names the tensor.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use kindling_kernels::TensorDesc;

/// A source of bytes of known length that can be read anywhere.
pub trait ReadAt: Send + Sync {
    /// Length in bytes when it was opened.
    fn num_bytes(&self) -> u64;

    /// Fills `out` from `offset` on.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if the bytes are not all there, or what the system reports.
    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()>;
}

/// A regular file and its length at the time of opening.
#[derive(Debug)]
pub struct FileBytes {
    file: File,
    num_bytes: u64,
}

impl FileBytes {
    /// Opens `path` for reading.
    ///
    /// # Errors
    /// What the system reports, or [`io::ErrorKind::InvalidInput`] for anything but a regular file
    /// (a pipe would block, a device has no length).
    pub fn open(path: &Path) -> io::Result<Self> {
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let file = File::open(path)?;
        let num_bytes = file.metadata()?.len();
        Ok(Self { file, num_bytes })
    }
}

impl ReadAt for FileBytes {
    fn num_bytes(&self) -> u64 {
        self.num_bytes
    }

    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }
}

impl ReadAt for Vec<u8> {
    fn num_bytes(&self) -> u64 {
        self.len() as u64
    }

    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = usize::try_from(offset)
            .ok()
            .and_then(|start| self.get(start..start.checked_add(out.len())?))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }
}

/// Where `rows` of a tensor begin within it, if they exist and fill a buffer of `num_bytes`.
pub(crate) fn row_offset(desc: &TensorDesc, rows: &Range<usize>, num_bytes: usize) -> io::Result<u64> {
    let (num_rows, row_bytes) = (desc.num_rows(), desc.row_bytes());
    if rows.start > rows.end || rows.end > num_rows || rows.len() * row_bytes != num_bytes {
        let sizes = format!("the buffer has {num_bytes} bytes for rows {rows:?} of {num_rows}, {row_bytes} bytes each");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, sizes));
    }
    Ok((rows.start * row_bytes) as u64)
}
