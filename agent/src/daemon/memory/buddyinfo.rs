//! `/proc/buddyinfo`: how much of the free memory lies in large blocks.

use std::path::Path;

use kindling_envelope::Bytes;

use super::MemoryError;

/// A GPU's driver wants blocks of at least this size.
const LARGE_BLOCK: u64 = 2 << 20;

/// Free bytes in blocks of at least 2 MiB, on all nodes and in all zones. `page_bytes` is the kernel's page size;
/// `path` is where the text is from, for errors.
///
/// # Errors
/// [`MemoryError`] naming the line that can't be understood.
pub fn large_blocks(text: &str, page_bytes: u64, path: &Path) -> Result<Bytes, MemoryError> {
    let mut sum = Bytes(0);
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = || MemoryError::line(path, index, line, "`Node N, zone NAME` and numbers of free blocks");
        let (node, zone) = line.split_once(',').ok_or_else(wrong)?;
        let mut words = zone.split_whitespace();
        if !node.starts_with("Node ") || words.next() != Some("zone") || words.next().is_none() {
            return Err(wrong());
        }
        let mut block_bytes = page_bytes;
        for word in words {
            let blocks: u64 = word.parse().map_err(|_| wrong())?;
            if block_bytes >= LARGE_BLOCK {
                sum = sum + Bytes(block_bytes).times(blocks);
            }
            block_bytes = block_bytes.saturating_mul(2);
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORDED: &str = "Node 0, zone      DMA      0      0      0      0      0      0      0      0      1      1      2 \n\
        Node 0, zone    DMA32      5      4      4      4      5      4      4      5      5      5    731 \n\
        Node 0, zone   Normal   1030    845    600    390    210    100     60     30     20     11   4400 \n";

    fn read(text: &str, page_bytes: u64) -> Result<Bytes, String> {
        large_blocks(text, page_bytes, Path::new("buddyinfo")).map_err(|error| error.to_string())
    }

    /// Pages of 4 KiB: order 9 is 2 MiB, order 10 is 4 MiB. Pages of 64 KiB: order 5 is 2 MiB.
    #[test]
    fn which_order_is_large_follows_from_the_page_size() {
        assert_eq!(read(RECORDED, 4096), Ok(Bytes::mib(2 * (1 + 5 + 11) + 4 * (2 + 731 + 4400))));
        assert_eq!(read("Node 0, zone Normal 9 9 9 9 9 3 2 1\n", 65536), Ok(Bytes::mib(3 * 2 + 2 * 4 + 8)));
        assert_eq!(read("", 4096), Ok(Bytes(0)));
    }

    #[test]
    fn a_bad_line_is_named_with_its_number() {
        for bad in
            ["zone Normal 1 2", "Node 0, zone", "Node 0, zone Normal 1 x", "Node 0, Normal 1", "Node 0, zone N -1"]
        {
            let error = read(&format!("Node 0, zone DMA 1\n{bad}\n"), 4096).unwrap_err();
            assert!(error.starts_with("buddyinfo, line 2: "), "{error}");
        }
    }

    #[test]
    fn foreign_numbers_do_not_wrap() {
        let many = format!("Node 0, zone Normal {}\n", "18446744073709551615 ".repeat(80));
        assert_eq!(read(&many, 4096), Ok(Bytes(u64::MAX)));
    }
}
