//! Which instructions the kernels use. Chosen once, when the backend is made.
//!
//! Kernels are written once over [`Lanes`]; `run` instantiates them for one instruction set. All sets compute the same
//! operations in the same order, so results are the same bit for bit on every one of them.
#![allow(unsafe_code)]

#[cfg(target_arch = "aarch64")]
use std::arch::is_aarch64_feature_detected;
use std::fmt;

use super::lanes::{Lanes, portable::Portable};

/// An instruction set that kernels exist for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Whatever the compiler makes of plain loops. Any machine; on x86-64 slow, since it may not assume FMA.
    Portable,
    /// AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, BW, VL and VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    /// NEON as every 64-bit Arm has it.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// NEON with dotprod.
    #[cfg(target_arch = "aarch64")]
    NeonDotprod,
    /// NEON with dotprod and i8mm.
    #[cfg(target_arch = "aarch64")]
    NeonI8mm,
}

impl Isa {
    /// All that this machine can run, the fastest last.
    pub fn available() -> Vec<Self> {
        #[allow(unused_mut, reason = "only x86-64 and Arm have more than one")]
        let mut found = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 =
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
            if avx2 {
                found.push(Self::Avx2);
            }
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni");
            if avx2 && avx512 {
                found.push(Self::Avx512Vnni);
            }
        }
        #[cfg(target_arch = "aarch64")]
        if is_aarch64_feature_detected!("neon") {
            found.push(Self::Neon);
            if is_aarch64_feature_detected!("dotprod") {
                found.push(Self::NeonDotprod);
                if is_aarch64_feature_detected!("i8mm") {
                    found.push(Self::NeonI8mm);
                }
            }
        }
        found
    }

    /// The fastest that this machine can run.
    pub fn best() -> Self {
        Self::available().last().copied().unwrap_or(Self::Portable)
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => "avx512-vnni",
            #[cfg(target_arch = "aarch64")]
            Self::Neon => "neon",
            #[cfg(target_arch = "aarch64")]
            Self::NeonDotprod => "neon-dotprod",
            #[cfg(target_arch = "aarch64")]
            Self::NeonI8mm => "neon-i8mm",
        })
    }
}

/// An [`Isa`] that this machine is known to have.
#[derive(Debug, Clone, Copy)]
pub(super) struct DetectedIsa(Isa);

impl DetectedIsa {
    /// The fastest that this machine can run.
    pub fn best() -> Self {
        Self(Isa::best())
    }

    /// `None` if this machine lacks it.
    pub fn new(isa: Isa) -> Option<Self> {
        Isa::available().contains(&isa).then_some(Self(isa))
    }

    /// Which one.
    pub fn isa(self) -> Isa {
        self.0
    }

    /// Runs `kernel` compiled for this instruction set.
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) {
        match self.0 {
            Isa::Portable => kernel.run(Portable),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `new` has checked that this machine has the instructions.
            Isa::Avx2 => unsafe { x86::run_avx2(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx512Vnni => unsafe { x86::run_avx512_vnni(kernel) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: `new` has checked that this machine has the instructions.
            Isa::Neon => unsafe { arm::run_neon(kernel) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: as above.
            Isa::NeonDotprod => unsafe { arm::run_neon_dotprod(kernel) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: as above.
            Isa::NeonI8mm => unsafe { arm::run_neon_i8mm(kernel) },
        }
    }
}

/// A piece of work written over [`Lanes`]. `run` and everything it calls must be `#[inline(always)]`, or it is compiled
/// without the instructions it was meant for. Closures that touch vectors don't do: the standard library's `map` and
/// `from_fn` may call them out of line, which made decode four times slower.
pub(super) trait Kernel {
    /// Does it.
    fn run<L: Lanes>(self, lanes: L);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Kernel;
    use crate::cpu::lanes::{avx2::Avx2, avx512::Avx512Vnni};

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn run_avx2<K: Kernel>(kernel: K) {
        // SAFETY: this function is only entered on machines with these features.
        kernel.run(unsafe { Avx2::new() });
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    pub(super) fn run_avx512_vnni<K: Kernel>(kernel: K) {
        // SAFETY: this function is only entered on machines with these features.
        kernel.run(unsafe { Avx512Vnni::new() });
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use super::Kernel;
    use crate::cpu::lanes::neon::{Dotprod, I8mm, Neon, Widening};

    #[target_feature(enable = "neon")]
    pub(super) fn run_neon<K: Kernel>(kernel: K) {
        // SAFETY: this function is only entered on machines with these features.
        kernel.run(unsafe { Neon::<Widening>::new() });
    }

    #[target_feature(enable = "neon,dotprod")]
    pub(super) fn run_neon_dotprod<K: Kernel>(kernel: K) {
        // SAFETY: this function is only entered on machines with these features.
        kernel.run(unsafe { Neon::<Dotprod>::new() });
    }

    #[target_feature(enable = "neon,dotprod,i8mm")]
    pub(super) fn run_neon_i8mm<K: Kernel>(kernel: K) {
        // SAFETY: this function is only entered on machines with these features.
        kernel.run(unsafe { Neon::<I8mm>::new() });
    }
}

#[cfg(test)]
mod tests {
    use super::{DetectedIsa, Isa};

    #[test]
    fn the_best_set_is_one_that_this_machine_has() {
        assert!(DetectedIsa::new(Isa::best()).is_some());
        assert_eq!(Isa::available()[0], Isa::Portable);
    }

    /// `cargo xtask arm` reads this line: emulated machines must be found to have what they have.
    #[test]
    fn every_set_of_this_machine_has_a_name_of_its_own() {
        let mut names: Vec<_> = Isa::available().iter().map(ToString::to_string).collect();
        println!("instruction sets: {}", names.join(", "));
        names.sort();
        names.dedup();
        assert_eq!(names.len(), Isa::available().len());
    }
}
