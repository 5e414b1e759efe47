//! Progress bars on standard error; plain lines now and then where there is no terminal.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Between two lines where a bar cannot be drawn: often enough to see life, seldom enough for a log.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Progress of one thing that is counted in bytes.
pub struct Bytes {
    label: String,
    bar: Option<ProgressBar>,
    last_line: Instant,
}

impl Bytes {
    /// Begins at nothing; the total may come later.
    pub fn new(label: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let form = "{prefix} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
            let style = ProgressStyle::with_template(form).expect("the template is constant and should parse");
            ProgressBar::new(0).with_style(style.progress_chars("=> ")).with_prefix(label.to_owned())
        });
        Self { label: label.to_owned(), bar, last_line: Instant::now() }
    }

    /// Shows how far it is.
    pub fn set(&mut self, bytes: u64, total_bytes: Option<u64>) {
        match &self.bar {
            Some(bar) => {
                if let Some(total) = total_bytes {
                    bar.set_length(total);
                }
                bar.set_position(bytes);
            }
            None if self.last_line.elapsed() >= LINE_EVERY => {
                self.last_line = Instant::now();
                let total = total_bytes.map_or_else(|| "?".to_owned(), mebibytes);
                eprintln!("{}: {} of {total}", self.label, mebibytes(bytes));
            }
            None => {}
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// `93.8 MiB`.
pub fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
