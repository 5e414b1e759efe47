//! A file that is not whole yet, `<file>.partial`, and beside it a journal of which of its bytes are here.
//!
//! The part has the size of the whole from the start, so that its ranges can come in any order; the journal says which
//! of them came. A range is noted only after its bytes are on disk, so a crash at any moment loses what was not noted
//! and nothing else. Who writes holds the lock of the folder.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use super::spans::Spans;
use crate::cache::remove_if_there;
use crate::page_cache;

/// First line of a journal; the number is that of its form.
const FORM: &str = "kindling part 1";
/// More lines than any download writes; a longer journal is none.
const MAX_JOURNAL_BYTES: u64 = 64 << 20;

/// What a part is a part of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Whole {
    /// `None`: the server says nothing by which the file could be known again, so that nothing can be resumed.
    pub(super) version: Option<String>,
    /// `None`: the server does not say.
    pub(super) total_bytes: Option<u64>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Part {
    path: PathBuf,
    journal_path: PathBuf,
    whole: Whole,
    file: Arc<File>,
    noted: Mutex<Noted>,
}

#[derive(Debug)]
struct Noted {
    spans: Spans,
    /// `None` where nothing can be resumed.
    journal: Option<File>,
}

/// What a journal says.
#[derive(Debug, PartialEq, Eq)]
enum Journal {
    Absent,
    /// Of another version of the file, or of another size.
    Other,
    /// It can't be what was written, because of this.
    Corrupt(String),
    Says(Spans),
}

fn paths(folder: &Path, file: &str) -> (PathBuf, PathBuf) {
    let beside = |ending: &str| folder.join(format!("{file}.{ending}"));
    (beside("partial"), beside("partial.journal"))
}

/// Bytes that are here of a file that is not whole, and how much of the disk they take already.
pub(super) fn kept(folder: &Path, file: &str, whole: &Whole) -> (u64, u64) {
    let (path, journal_path) = paths(folder, file);
    let Ok(metadata) = fs::symlink_metadata(&path) else { return (0, 0) };
    match read_journal(&journal_path, whole) {
        Ok(Journal::Says(spans)) => (spans.num_bytes(), metadata.blocks() * 512),
        // it is removed before anything is written
        _ => (0, metadata.blocks() * 512),
    }
}

impl Part {
    /// Opens what is there of this very version, else starts anew, and says so where something is lost.
    pub(super) fn open(folder: &Path, file: &str, whole: &Whole) -> io::Result<Self> {
        let (path, journal_path) = paths(folder, file);
        let lost = match read_journal(&journal_path, whole)? {
            Journal::Says(spans) => match Self::resume(&path, &journal_path, whole, spans)? {
                Some(part) => return Ok(part),
                None => Some("the part is not the journal's".to_owned()),
            },
            Journal::Absent => path.exists().then(|| "it has no journal".to_owned()),
            Journal::Other => Some("the file is another one now".to_owned()),
            Journal::Corrupt(why) => Some(format!("its journal is corrupt: {why}")),
        };
        if let Some(why) = lost {
            tracing::warn!(
                file,
                why,
                "what was here of an unfinished download can't be used; it starts from the beginning"
            );
        }
        Self::make(path, journal_path, whole.clone())
    }

    fn resume(path: &Path, journal_path: &Path, whole: &Whole, spans: Spans) -> io::Result<Option<Self>> {
        let is_file = |path: &Path| fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file());
        if !is_file(path) || !is_file(journal_path) {
            return Ok(None);
        }
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        if whole.total_bytes.is_some_and(|total| file.metadata().is_ok_and(|found| found.len() != total)) {
            return Ok(None);
        }
        let journal = OpenOptions::new().append(true).open(journal_path)?;
        // a line that was cut by a crash is taken away
        let text = fs::read(journal_path)?;
        let whole_lines = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at as u64 + 1);
        journal.set_len(whole_lines)?;
        Ok(Some(Self {
            path: path.to_owned(),
            journal_path: journal_path.to_owned(),
            whole: whole.clone(),
            file: Arc::new(file),
            noted: Mutex::new(Noted { spans, journal: Some(journal) }),
        }))
    }

    /// New files, not emptied ones: a write of a download that was dropped may still be under way in the old ones.
    fn make(path: PathBuf, journal_path: PathBuf, whole: Whole) -> io::Result<Self> {
        remove_if_there(&journal_path)?;
        remove_if_there(&path)?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        if let Some(total) = whole.total_bytes {
            reserve(&file, total).inspect_err(|_| drop(remove_if_there(&path)))?;
        }
        let journal = match (&whole.version, whole.total_bytes) {
            (Some(version), Some(total)) => Some(begin_journal(&journal_path, version, total)?),
            _ => None,
        };
        let noted = Mutex::new(Noted { spans: Spans::default(), journal });
        Ok(Self { path, journal_path, whole, file: Arc::new(file), noted })
    }

    /// Another part in this one's place, of which nothing is here.
    pub(super) fn anew(&self, whole: Whole) -> io::Result<Self> {
        Self::make(self.path.clone(), self.journal_path.clone(), whole)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn whole(&self) -> &Whole {
        &self.whole
    }

    /// Bytes that are here and noted.
    pub(super) fn num_bytes(&self) -> u64 {
        self.noted().spans.num_bytes()
    }

    /// What is not here; nothing if nobody knows how much there is.
    pub(super) fn missing(&self) -> Vec<Range<u64>> {
        self.whole.total_bytes.map(|total| self.noted().spans.missing(total)).unwrap_or_default()
    }

    /// Writes bytes that came. Blocks.
    pub(super) fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    /// Notes that these bytes are here, once they are on disk. Blocks.
    pub(super) fn note(&self, span: Range<u64>) -> io::Result<()> {
        if span.is_empty() {
            return Ok(());
        }
        page_cache::settle(&self.file, &span)?;
        let mut noted = self.noted();
        if let Some(journal) = &mut noted.journal {
            journal.write_all(format!("{} {}\n", span.start, span.end).as_bytes())?;
            journal.sync_data()?;
        }
        noted.spans.add(span);
        Ok(())
    }

    /// Puts the file in its place, in so many bytes as came.
    pub(super) fn finish(&self, target: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        page_cache::forget_all(&self.file);
        fs::rename(&self.path, target)?;
        remove_if_there(&self.journal_path)
    }

    pub(super) fn remove(&self) -> io::Result<()> {
        remove_if_there(&self.journal_path)?;
        remove_if_there(&self.path)
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        // a panic between writing the journal and adding to the set leaves at most a range that is fetched again
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the room on the disk before the first byte comes, where the file system can.
fn reserve(file: &File, total_bytes: u64) -> io::Result<()> {
    if total_bytes == 0 {
        return Ok(());
    }
    let length = total_bytes.try_into().map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    match fallocate(file, FallocateFlags::empty(), 0, length) {
        Ok(()) => Ok(()),
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => file.set_len(total_bytes),
        Err(error) => Err(error.into()),
    }
}

fn begin_journal(path: &Path, version: &str, total_bytes: u64) -> io::Result<File> {
    let mut journal = OpenOptions::new().append(true).create_new(true).open(path)?;
    journal.write_all(format!("{FORM}\n{total_bytes} {}\n", version.escape_default()).as_bytes())?;
    journal.sync_data()?;
    Ok(journal)
}

fn read_journal(path: &Path, whole: &Whole) -> io::Result<Journal> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Journal::Absent),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(MAX_JOURNAL_BYTES).read_to_end(&mut bytes)?;
    Ok(parse(&bytes, whole))
}

fn parse(bytes: &[u8], whole: &Whole) -> Journal {
    let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n') else {
        return Journal::Corrupt("it has no whole line".to_owned());
    };
    let Ok(text) = str::from_utf8(&bytes[..end]) else {
        return Journal::Corrupt("it is no text".to_owned());
    };
    let mut lines = text.lines();
    if lines.next() != Some(FORM) {
        return Journal::Corrupt(format!("it does not begin with {FORM:?}"));
    }
    let Some((total, version)) = lines.next().and_then(|line| line.split_once(' ')) else {
        return Journal::Corrupt("it does not say of what".to_owned());
    };
    let Ok(total) = total.parse::<u64>() else {
        return Journal::Corrupt(format!("{total:?} is no size"));
    };
    let asked = whole.version.as_ref().map(|version| version.escape_default().to_string());
    if asked.as_deref() != Some(version) || whole.total_bytes != Some(total) {
        return Journal::Other;
    }
    let mut spans = Spans::default();
    for line in lines {
        let span = line.split_once(' ').and_then(|(start, end)| Some(start.parse().ok()?..end.parse().ok()?));
        match span.filter(|span: &Range<u64>| span.start < span.end && span.end <= total) {
            Some(span) => spans.add(span),
            None => return Journal::Corrupt(format!("{line:?} is no range of it")),
        }
    }
    Journal::Says(spans)
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "one range is meant")]
mod tests;
