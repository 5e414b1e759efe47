//! `/proc/meminfo`: what the kernel says it has.

use std::path::Path;

use kindling_envelope::Bytes;

use super::MemoryError;

/// The lines of it that the agent goes by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemInfo {
    /// `MemTotal`.
    pub total: Bytes,
    /// `MemFree`.
    pub free: Bytes,
    /// `MemAvailable`.
    pub available: Bytes,
    /// `SwapTotal`.
    pub swap_total: Bytes,
    /// `SwapTotal` less `SwapFree`.
    pub swap_used: Bytes,
}

/// Reads the text; `path` is where it is from, for errors.
///
/// # Errors
/// [`MemoryError`] naming the line that can't be understood or the field that is not there.
pub fn parse(text: &str, path: &Path) -> Result<MemInfo, MemoryError> {
    let mut fields =
        [("MemTotal", None), ("MemFree", None), ("MemAvailable", None), ("SwapTotal", None), ("SwapFree", None)];
    for (index, line) in text.lines().enumerate() {
        let Some((name, value)) = line.split_once(':') else { continue };
        if let Some(field) = fields.iter_mut().find(|field| field.0 == name) {
            let bytes = kibibytes(value).ok_or_else(|| MemoryError::line(path, index, line, "a number of kB"))?;
            field.1 = Some(bytes);
        }
    }
    let [total, free, available, swap_total, swap_free] = fields;
    let needed = |(field, value): (&'static str, Option<Bytes>)| {
        value.ok_or_else(|| MemoryError::Missing { path: path.to_owned(), field })
    };
    let (total, free, available) = (needed(total)?, needed(free)?, needed(available)?);
    if total == Bytes(0) || available > total || free > total {
        return Err(MemoryError::Absurd { path: path.to_owned(), total, available, free });
    }
    // A kernel without swap says 0 kB; a folder that only simulates one may leave the lines out.
    let swap_total = swap_total.1.unwrap_or_default();
    let swap_used = swap_total.saturating_sub(swap_free.1.unwrap_or(swap_total));
    Ok(MemInfo { total, free, available, swap_total, swap_used })
}

fn kibibytes(value: &str) -> Option<Bytes> {
    let number: u64 = value.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    number.checked_mul(1024).map(Bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The head and the swap of a machine with 24 GiB, as its kernel wrote them.
    const RECORDED: &str = "MemTotal:       24630544 kB\nMemFree:        21464196 kB\nMemAvailable:   23519280 kB\n\
        Buffers:           62280 kB\nCached:          2181136 kB\nSwapCached:            0 kB\nActive:           701992 kB\n\
        SwapTotal:       8388604 kB\nSwapFree:        8000000 kB\nHugePages_Total:       0\n";

    fn parsed(text: &str) -> Result<MemInfo, String> {
        parse(text, Path::new("/proc/meminfo")).map_err(|error| error.to_string())
    }

    #[test]
    fn what_a_kernel_writes_is_read() {
        let read = parsed(RECORDED).unwrap();
        assert_eq!((read.total, read.free), (Bytes(24_630_544 << 10), Bytes(21_464_196 << 10)));
        assert_eq!((read.available, read.swap_total), (Bytes(23_519_280 << 10), Bytes(8_388_604 << 10)));
        assert_eq!(read.swap_used, Bytes(388_604 << 10));
    }

    #[test]
    fn a_bad_line_is_named_with_its_number() {
        for bad in ["MemFree: many kB", "MemFree: -1 kB", "MemFree: 5", "MemFree: 99999999999999999999 kB", "MemFree:"]
        {
            let error = parsed(&format!("MemTotal: 10 kB\n{bad}\nMemAvailable: 5 kB\n")).unwrap_err();
            assert!(error.starts_with("/proc/meminfo, line 2: ") && error.contains(bad), "{error}");
        }
    }

    #[test]
    fn what_is_not_there_or_cannot_be_is_said() {
        assert_eq!(parsed("MemTotal: 10 kB\nMemFree: 5 kB\n").unwrap_err(), "/proc/meminfo has no line MemAvailable");
        assert_eq!(parsed("").unwrap_err(), "/proc/meminfo has no line MemTotal");
        let more = parsed("MemTotal: 10 kB\nMemFree: 5 kB\nMemAvailable: 11 kB\n").unwrap_err();
        assert!(more.contains("can't be true"), "{more}");
    }

    #[test]
    fn no_bytes_make_it_panic() {
        for cut in 0..RECORDED.len() {
            let _ = parsed(&RECORDED[..cut]);
            let mut bytes = RECORDED.as_bytes().to_vec();
            bytes[cut] ^= 0x95;
            let _ = parsed(&String::from_utf8_lossy(&bytes));
        }
    }
}
