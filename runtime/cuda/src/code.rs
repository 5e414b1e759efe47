//! Which of the embedded code runs on a device. Pure.

use std::fmt;

/// For what code was compiled, as nvcc names it: `sm_121a`, `sm_120f`, `sm_90`, `compute_90`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// `12` of `sm_121a`.
    pub major: u32,
    /// `1` of `sm_121a`.
    pub minor: u32,
    /// Where it runs.
    pub scope: Scope,
}

/// Where code runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Exactly there: `a`.
    Exact,
    /// There and on what is newer in its family: `f`.
    Family,
    /// There and on what is newer of the same major number.
    Major,
    /// Everywhere from there on: PTX, which the driver compiles.
    Ptx,
}

/// What a device would run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code {
    /// As nvcc names it.
    pub target: Target,
    /// Whether it holds the block-scaled FP4 instructions.
    pub has_fp4: bool,
}

impl Target {
    /// Reads nvcc's name.
    pub fn parse(name: &str) -> Option<Self> {
        let (digits, is_ptx) = match (name.strip_prefix("sm_"), name.strip_prefix("compute_")) {
            (Some(digits), _) => (digits, false),
            (_, Some(digits)) => (digits, true),
            _ => return None,
        };
        let (digits, scope) = match digits.strip_suffix(['a', 'f']) {
            _ if is_ptx => (digits, Scope::Ptx),
            Some(rest) if digits.ends_with('a') => (rest, Scope::Exact),
            Some(rest) => (rest, Scope::Family),
            None => (digits, Scope::Major),
        };
        let number: u32 = digits.parse().ok()?;
        Some(Self { major: number / 10, minor: number % 10, scope })
    }

    /// Whether a device of this compute capability runs it.
    pub fn runs_on(self, (major, minor): (u32, u32)) -> bool {
        match self.scope {
            Scope::Exact => (major, minor) == (self.major, self.minor),
            Scope::Family | Scope::Major => major == self.major && minor >= self.minor,
            Scope::Ptx => (major, minor) >= (self.major, self.minor),
        }
    }

    fn has_fp4(self) -> bool {
        self.major == 12 && matches!(self.scope, Scope::Exact | Scope::Family)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { major, minor, scope } = self;
        match scope {
            Scope::Exact => write!(out, "sm_{major}{minor}a"),
            Scope::Family => write!(out, "sm_{major}{minor}f"),
            Scope::Major => write!(out, "sm_{major}{minor}"),
            Scope::Ptx => write!(out, "compute_{major}{minor}"),
        }
    }
}

/// What a device of this compute capability runs: as the driver chooses, machine code made for it before PTX, newer before
/// older, exact before general.
pub fn choose(targets: &[Target], compute: (u32, u32)) -> Option<Code> {
    let rank = |target: &&Target| {
        let exactness = match target.scope {
            Scope::Exact => 3,
            Scope::Family => 2,
            Scope::Major => 1,
            Scope::Ptx => 0,
        };
        (target.scope != Scope::Ptx, target.major, target.minor, exactness)
    };
    let target = targets.iter().filter(|target| target.runs_on(compute)).max_by_key(rank)?;
    Some(Code { target: *target, has_fp4: target.has_fp4() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(compute: (u32, u32)) -> Option<(String, bool)> {
        let targets: Vec<Target> = crate::image::targets();
        choose(&targets, compute).map(|code| (code.target.to_string(), code.has_fp4))
    }

    #[test]
    fn each_device_has_its_code() {
        for (compute, target, has_fp4) in [
            ((12, 1), "sm_121a", true),
            ((12, 0), "sm_120f", true),
            ((9, 0), "sm_90", false),
            ((10, 0), "compute_90", false),
            ((10, 3), "compute_90", false),
            ((13, 0), "compute_90", false),
        ] {
            assert_eq!(chosen(compute), Some((target.to_owned(), has_fp4)), "{compute:?}");
        }
        for older in [(8, 9), (8, 0), (7, 5)] {
            assert_eq!(chosen(older), None, "{older:?}");
        }
        // A family goes on: its next member runs the code of the one before.
        assert_eq!(chosen((12, 9)), Some(("sm_120f".to_owned(), true)));
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in ["sm_121a", "sm_120f", "sm_90", "compute_90", "sm_80"] {
            assert_eq!(Target::parse(name).unwrap().to_string(), name);
        }
        for name in ["", "sm_", "sm_x", "gfx_90", "90"] {
            assert_eq!(Target::parse(name), None, "{name}");
        }
    }
}
