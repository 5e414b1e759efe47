//! What the kernel says this process takes.

use std::fs;

/// Memory of this process that is nobody else's, and its share of what it has in common with others (PSS); `None` where
/// the kernel does not say.
pub fn process_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/smaps_rollup").ok()?;
    pss(&text)
}

fn pss(smaps_rollup: &str) -> Option<u64> {
    let line = smaps_rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_this_process_is_read() {
        let text = "5581-7ffc ---p 00000000 00:00 0 [rollup]\nRss:  2000 kB\nPss:   1234 kB\nPss_Dirty: 1 kB\n";
        assert_eq!(pss(text), Some(1234 * 1024));
        assert_eq!(pss("Rss: 1 kB\n"), None);
        assert!(process_bytes().is_some_and(|bytes| bytes > 100_000), "this kernel should have smaps_rollup");
    }
}
