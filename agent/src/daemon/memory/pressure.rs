//! `/proc/pressure/memory`: how long processes waited for memory.

use std::path::Path;

use super::MemoryError;

/// Parts per million of the last ten seconds in which some process waited; `path` is where the text is from.
///
/// # Errors
/// [`MemoryError`] naming the line that can't be understood, or that there is none.
pub fn stalled_ppm(text: &str, path: &Path) -> Result<u64, MemoryError> {
    let found = text.lines().enumerate().find(|(_, line)| line.starts_with("some "));
    let (index, line) = found.ok_or_else(|| MemoryError::Missing { path: path.to_owned(), field: "some" })?;
    let percent = line.split_whitespace().find_map(|word| word.strip_prefix("avg10="));
    percent.and_then(ppm_of_percent).ok_or_else(|| MemoryError::line(path, index, line, "avg10=PERCENT"))
}

/// `1.25` per cent are 12500 parts per million.
fn ppm_of_percent(text: &str) -> Option<u64> {
    let percent: f64 = text.parse().ok()?;
    (0.0..=100.0).contains(&percent).then(|| (percent * 10_000.0).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<u64, String> {
        stalled_ppm(text, Path::new("memory")).map_err(|error| error.to_string())
    }

    #[test]
    fn the_last_ten_seconds_of_some_are_read() {
        let text =
            "some avg10=1.53 avg60=0.87 avg300=0.19 total=58761459\nfull avg10=9.00 avg60=0.00 avg300=0.00 total=1\n";
        assert_eq!(read(text), Ok(15_300));
    }

    #[test]
    fn foreign_text_is_refused() {
        assert_eq!(read("full avg10=0.00\n").unwrap_err(), "memory has no line some");
        for bad in ["some avg10=x", "some avg10=NaN", "some avg10=101.0", "some avg10=-1", "some total=1"] {
            assert!(read(bad).unwrap_err().starts_with("memory, line 1: "), "{bad}");
        }
    }
}
