//! A number of bytes, as people write and read it.

use std::fmt;
use std::iter::Sum;
use std::ops::Add;
use std::str::FromStr;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// A number of bytes. Sums stop at the largest number instead of wrapping: too much stays too much.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

/// Text that is no number of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no number of bytes: write for example 119.6GiB, 512Mi or 1073741824")]
pub struct NotBytes(String);

impl Bytes {
    /// So many mebibytes.
    pub const fn mib(number: u64) -> Self {
        Self(number.saturating_mul(MIB))
    }

    /// So many gibibytes.
    pub const fn gib(number: u64) -> Self {
        Self(number.saturating_mul(GIB))
    }

    /// Rounded up; 0 per cent of anything is nothing.
    pub fn percent(self, percent: u64) -> Self {
        let bytes = (u128::from(self.0) * u128::from(percent)).div_ceil(100);
        Self(u64::try_from(bytes).unwrap_or(u64::MAX))
    }

    /// What is left, or nothing.
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// `number` times as much.
    pub fn times(self, number: u64) -> Self {
        Self(self.0.saturating_mul(number))
    }
}

impl Add for Bytes {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sum for Bytes {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self(0), Add::add)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (divisor, unit) = if self.0 >= GIB { (GIB, "GiB") } else { (MIB, "MiB") };
        write!(formatter, "{:.2} {unit}", self.0 as f64 / divisor as f64)
    }
}

impl FromStr for Bytes {
    type Err = NotBytes;

    /// A number with a unit of powers of 1024 (`GiB`, `Gi`) or of 1000 (`GB`, `G`), or with none.
    fn from_str(text: &str) -> Result<Self, NotBytes> {
        let wrong = || NotBytes(text.to_owned());
        let trimmed = text.trim();
        let end = trimmed.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(end);
        let scale = match unit.trim().trim_end_matches('B') {
            "" => 1,
            "Ki" => KIB,
            "Mi" => MIB,
            "Gi" => GIB,
            "Ti" => TIB,
            "k" | "K" => 1000,
            "M" => 1_000_000,
            "G" => 1_000_000_000,
            "T" => 1_000_000_000_000,
            _ => return Err(wrong()),
        };
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(scale).map(Self).ok_or_else(wrong);
        }
        let bytes = number.parse::<f64>().map_err(|_| wrong())? * scale as f64;
        // Below 2^53 every whole number is exact; nothing that is asked for is larger.
        if !bytes.is_finite() || bytes >= (1_u64 << 53) as f64 {
            return Err(wrong());
        }
        Ok(Self(bytes.round() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_read() {
        for (text, bytes) in [
            ("119.6GiB", 128_419_522_150),
            ("512Mi", 512 * MIB),
            ("1 GiB", GIB),
            ("1073741824", GIB),
            ("128GB", 128_000_000_000),
            ("0", 0),
            ("2Ti", 2 * TIB),
        ] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_number_of_bytes_is_refused_by_name() {
        for text in ["", "GiB", "-1GiB", "1.2.3Gi", "5 parsecs", "99999999999999999999", "9e9", "17000000Ti", "1GiBB x"]
        {
            let error = text.parse::<Bytes>().unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")) && error.contains("119.6GiB"), "{error}");
        }
    }

    #[test]
    fn sums_do_not_wrap_and_shares_are_rounded_up() {
        assert_eq!(Bytes(u64::MAX) + Bytes(1), Bytes(u64::MAX));
        assert_eq!([Bytes(1), Bytes(2)].into_iter().sum::<Bytes>(), Bytes(3));
        assert_eq!(Bytes(101).percent(10), Bytes(11));
        assert_eq!(Bytes(u64::MAX).percent(200), Bytes(u64::MAX));
        assert_eq!((Bytes::gib(12).to_string(), Bytes::mib(5).to_string()), ("12.00 GiB".into(), "5.00 MiB".into()));
    }
}
