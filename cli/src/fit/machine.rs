//! The memory that a model would have.

use anyhow::Context;
use kindling_envelope::{Bytes, Node};

const MEMINFO: &str = "/proc/meminfo";

/// A machine without models.
pub struct Machine {
    /// What is known of it.
    pub node: Node,
    /// Whether it is the one that this runs on.
    pub is_this: bool,
}

impl Machine {
    /// One of so much memory that does nothing else.
    pub fn given(total: Bytes) -> Self {
        Self { node: node(total, Bytes(0)), is_this: false }
    }

    /// This one, as it is now.
    ///
    /// # Errors
    /// If the system does not say how much memory there is.
    pub fn this() -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(MEMINFO)
            .with_context(|| format!("read {MEMINFO}; name the memory of a machine with --memory"))?;
        let (total, available) = parse(&text)?;
        Ok(Self { node: node(total, total.saturating_sub(available)), is_this: true })
    }
}

fn node(total: Bytes, baseline: Bytes) -> Node {
    Node { total, baseline, others: Bytes(0), residents: Vec::new() }
}

/// `MemTotal` and `MemAvailable`.
fn parse(text: &str) -> anyhow::Result<(Bytes, Bytes)> {
    let field = |name: &str| {
        let mut values = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = values.next().and_then(|value| value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        kib.map(|kib| Bytes(1024).times(kib)).with_context(|| format!("{MEMINFO} has no {name} in kB"))
    };
    Ok((field("MemTotal")?, field("MemAvailable")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_what_the_system_says() {
        let text = "MemTotal:       125506464 kB\nMemFree:  100 kB\nMemAvailable:   125000000 kB\n";
        assert_eq!(parse(text).unwrap(), (Bytes(125_506_464 << 10), Bytes(125_000_000 << 10)));
        let said = parse("MemTotal: 5 kB\nMemAvailable: 7 MB\n").unwrap_err().to_string();
        assert!(said.contains("MemAvailable"), "{said}");
    }
}
