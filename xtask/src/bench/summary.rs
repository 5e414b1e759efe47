//! Pairs of figures, ours and theirs, and what follows from them.

use crate::bench::foreign_cpu::Foreign;

/// One figure, measured in pairs.
pub struct Summary {
    name: String,
    unit: &'static str,
    pairs: Vec<Pair>,
}

/// Measured one right after the other.
#[derive(Debug, Clone, Copy)]
pub struct Pair {
    /// Ours.
    pub ours: f64,
    /// Theirs.
    pub theirs: f64,
    /// Who else computed meanwhile.
    pub foreign: Foreign,
}

impl Summary {
    /// Of nothing yet.
    pub fn new(name: impl Into<String>, unit: &'static str) -> Self {
        Self { name: name.into(), unit, pairs: Vec::new() }
    }

    /// One more.
    pub fn push(&mut self, pair: Pair) {
        self.pairs.push(pair);
    }

    /// One line: medians, the ratio pair by pair with its spread, and whether the machine was quiet.
    pub fn line(&self) -> String {
        let Self { name, unit, pairs } = self;
        let spread = |figure: fn(&Pair) -> f64, digits| spread(pairs.iter().map(figure).collect(), digits);
        let num_quiet = pairs.iter().filter(|pair| pair.foreign.is_quiet()).count();
        // A figure without a unit is a ratio.
        let digits = if unit.is_empty() { 3 } else { 1 };
        let foreign = pairs.iter().map(|pair| pair.foreign.0).fold(0.0, f64::max);
        format!(
            "{name:28} {unit:6} ours {:24} theirs {:24} ours/theirs {:20} quiet {num_quiet} of {} (others at most {foreign:.2} CPUs)",
            spread(|pair| pair.ours, digits),
            spread(|pair| pair.theirs, digits),
            spread(|pair| pair.ours / pair.theirs, 2),
            pairs.len(),
        )
    }
}

/// `median (minimum to maximum)`.
fn spread(mut figures: Vec<f64>, digits: usize) -> String {
    figures.sort_by(f64::total_cmp);
    let (Some(least), Some(most)) = (figures.first(), figures.last()) else { return "nothing".to_owned() };
    let middle = figures.len() / 2;
    let median =
        if figures.len() % 2 == 1 { figures[middle] } else { f64::midpoint(figures[middle - 1], figures[middle]) };
    format!("{median:.digits$} ({least:.digits$} to {most:.digits$})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_taken_pair_by_pair() {
        let mut summary = Summary::new("decode Q4_1", "tok/s");
        for (ours, theirs, foreign) in [(200.0, 100.0, 0.0), (60.0, 20.0, 1.5), (220.0, 100.0, 0.01)] {
            summary.push(Pair { ours, theirs, foreign: Foreign(foreign) });
        }
        let line = summary.line();
        assert!(line.contains("ours 200.0 (60.0 to 220.0)"), "{line}");
        assert!(line.contains("ours/theirs 2.20 (2.00 to 3.00)"), "{line}");
        assert!(line.contains("quiet 2 of 3 (others at most 1.50 CPUs)"), "{line}");
        assert_eq!(spread(vec![1.0, 2.0], 1), "1.5 (1.0 to 2.0)");
        assert_eq!(spread(Vec::new(), 1), "nothing");
    }
}
