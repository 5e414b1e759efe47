//! Several measurements of one thing: their median and how far they lie apart.

use serde::Serialize;

/// At least one figure, in the order in which they were measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// All of them.
    pub samples: Vec<f64>,
}

impl Spread {
    /// `None` of nothing.
    pub fn of(samples: impl IntoIterator<Item = f64>) -> Option<Self> {
        let samples: Vec<f64> = samples.into_iter().collect();
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) };
        Some(Self { median, min, max, samples })
    }

    /// How many times `other` this is, pair by pair: pairs are measured one right after the other, so that what slows
    /// the machine for a while slows both. `None` unless there are as many of both.
    pub fn ratio(&self, other: &Self) -> Option<Self> {
        if self.samples.len() != other.samples.len() {
            return None;
        }
        Self::of(self.samples.iter().zip(&other.samples).map(|(ours, theirs)| ours / theirs))
    }

    /// All figures times `factor`.
    pub fn scaled(&self, factor: f64) -> Self {
        Self {
            median: self.median * factor,
            min: self.min * factor,
            max: self.max * factor,
            samples: self.samples.iter().map(|sample| sample * factor).collect(),
        }
    }

    /// `median (min to max)`, with this many digits after the point; a single figure stands alone.
    pub fn text(&self, digits: usize) -> String {
        let Self { median, min, max, samples } = self;
        if samples.len() == 1 {
            return format!("{median:.digits$}");
        }
        format!("{median:.digits$} ({min:.digits$} to {max:.digits$})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        let spread = Spread::of([4.0, 1.0, 3.0, 10.0]).unwrap();
        assert_eq!((spread.median, spread.min, spread.max), (3.5, 1.0, 10.0));
        assert_eq!(spread.samples, [4.0, 1.0, 3.0, 10.0], "in the order of measurement");
        assert_eq!(Spread::of([7.0, 1.0, 5.0]).unwrap().median, 5.0);
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn a_ratio_is_taken_pair_by_pair() {
        let ours = Spread::of([100.0, 50.0, 200.0]).unwrap();
        let theirs = Spread::of([50.0, 25.0, 50.0]).unwrap();
        let ratio = ours.ratio(&theirs).unwrap();
        assert_eq!(ratio.samples, [2.0, 2.0, 4.0]);
        // Not the ratio of the medians' extremes: the machine was slow for both in the second pair.
        assert_eq!((ratio.median, ratio.min, ratio.max), (2.0, 2.0, 4.0));
        assert_eq!(ours.ratio(&Spread::of([1.0]).unwrap()), None);
    }

    #[test]
    fn a_single_figure_has_no_spread() {
        assert_eq!(Spread::of([1.25]).unwrap().text(1), "1.2");
        assert_eq!(Spread::of([1.0, 2.0, 4.0]).unwrap().text(0), "2 (1 to 4)");
        assert_eq!(Spread::of([1.0, 2.0]).unwrap().scaled(10.0), Spread::of([10.0, 20.0]).unwrap());
    }
}
