//! Keeps weights out of the page cache where nobody reads them soon: on a machine with unified memory, cached pages
//! stand where models could.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

/// So much of a file may be in the page cache while it is written or read through.
pub(crate) const WINDOW_BYTES: u64 = 16 << 20;

/// Makes a range durable and lets the kernel forget it.
pub(crate) fn settle(file: &File, range: &Range<u64>) -> io::Result<()> {
    file.sync_data()?;
    forget(file, range);
    Ok(())
}

/// Lets the kernel forget a range that is on disk; what is not, or is mapped by somebody, stays. Only advice, so
/// nothing is wrong when a file system does not take it.
pub(crate) fn forget(file: &File, range: &Range<u64>) {
    let [start, length] = [range.start, range.end.saturating_sub(range.start)].map(|bytes| bytes.try_into());
    if let (Ok(start), Ok(length)) = (start, length)
        && let Err(error) = posix_fadvise(file, start, length, PosixFadviseAdvice::POSIX_FADV_DONTNEED)
    {
        tracing::debug!(%error, "the kernel keeps cached pages");
    }
}

/// Lets the kernel forget all of a file.
pub(crate) fn forget_all(file: &File) {
    forget(file, &(0..0)); // a length of nothing means up to the end
}

/// Reads a file once, from its start, and leaves none of it behind.
#[derive(Debug)]
pub(crate) struct ReadOnce {
    file: File,
    window: Range<u64>,
}

impl ReadOnce {
    pub(crate) fn new(file: File) -> Self {
        Self { file, window: 0..0 }
    }
}

impl Read for ReadOnce {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read(buffer)?;
        self.window.end += length as u64;
        if self.window.end - self.window.start >= WINDOW_BYTES {
            forget(&self.file, &self.window);
            self.window.start = self.window.end;
        }
        Ok(length)
    }
}

impl Drop for ReadOnce {
    /// Whatever the kernel read ahead.
    fn drop(&mut self) {
        forget_all(&self.file);
    }
}
