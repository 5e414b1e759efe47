//! What computes a model: the rule behind `placement.device`. The same on a laptop and for a node of a cluster.

use std::fmt;

use crate::Device;

/// What was chosen, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// What computes.
    pub device: Device,
    /// Why that.
    pub why: Why,
}

/// Why a device was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// Somebody named it.
    Asked,
    /// The best one was asked for, and the GPU can be used.
    Usable,
    /// The best one was asked for, and there is no GPU that can be used.
    NoGpu(String),
    /// The best one was asked for, and there is a GPU, which can't compute this model.
    NotComputed(String),
}

/// Why what was asked for can't be had: a GPU that is named is never replaced by something else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is none that can be used.
    #[error("no GPU can be used: {0}")]
    NoGpu(String),
    /// There is one, which can't compute this model.
    #[error("the GPU can't compute this model: {0}")]
    NotComputed(String),
}

/// Chooses. `asked` is nothing for the best that works; `gpu` says whether one can be used, and `model` whether a GPU can
/// compute the model. Neither is called before its answer matters: whoever asks for the processor opens no driver.
///
/// # Errors
/// If a GPU is asked for by name, and can't be used for the model.
pub fn choose(
    asked: Option<Device>,
    gpu: impl FnOnce() -> Result<(), String>,
    model: impl FnOnce() -> Result<(), String>,
) -> Result<Choice, Refusal> {
    if asked == Some(Device::Cpu) {
        return Ok(Choice { device: Device::Cpu, why: Why::Asked });
    }
    let found = gpu().map_err(Refusal::NoGpu).and_then(|()| model().map_err(Refusal::NotComputed));
    match (asked, found) {
        (Some(_), found) => found.map(|()| Choice { device: Device::Cuda, why: Why::Asked }),
        (None, Ok(())) => Ok(Choice { device: Device::Cuda, why: Why::Usable }),
        (None, Err(Refusal::NoGpu(why))) => Ok(Choice { device: Device::Cpu, why: Why::NoGpu(why) }),
        (None, Err(Refusal::NotComputed(why))) => Ok(Choice { device: Device::Cpu, why: Why::NotComputed(why) }),
    }
}

impl Choice {
    /// Why the processor computes though the best device was asked for, if so.
    pub fn reason(&self) -> Option<String> {
        match &self.why {
            Why::Asked | Why::Usable => None,
            Why::NoGpu(why) => Some(Refusal::NoGpu(why.clone()).to_string()),
            Why::NotComputed(why) => Some(Refusal::NotComputed(why.clone()).to_string()),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Cpu => "Cpu",
            Self::Cuda => "Cuda",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn yes() -> Result<(), String> {
        Ok(())
    }

    fn not(why: &str) -> impl FnOnce() -> Result<(), String> {
        let why = why.to_owned();
        move || Err(why)
    }

    fn never() -> Result<(), String> {
        panic!("nobody may ask")
    }

    #[test]
    fn whoever_asks_for_the_processor_touches_no_gpu() {
        let choice = choose(Some(Device::Cpu), never, never).unwrap();
        assert_eq!((choice.device, choice.reason()), (Device::Cpu, None));
    }

    #[test]
    fn the_best_is_the_gpu_where_it_can_be_used_for_the_model() {
        let choice = choose(None, yes, yes).unwrap();
        assert_eq!((choice.device, &choice.why, choice.reason()), (Device::Cuda, &Why::Usable, None));
    }

    #[test]
    fn else_it_is_the_processor_and_says_why() {
        let choice = choose(None, not("no driver"), never).unwrap();
        assert_eq!((choice.device, choice.reason().as_deref()), (Device::Cpu, Some("no GPU can be used: no driver")));
        let choice = choose(None, yes, not("recurrent layers")).unwrap();
        let why = "the GPU can't compute this model: recurrent layers";
        assert_eq!((choice.device, choice.reason().as_deref()), (Device::Cpu, Some(why)));
    }

    #[test]
    fn a_gpu_that_is_named_is_never_replaced() {
        let asked = Some(Device::Cuda);
        assert_eq!(choose(asked, yes, yes).unwrap(), Choice { device: Device::Cuda, why: Why::Asked });
        assert_eq!(choose(asked, not("no driver"), never), Err(Refusal::NoGpu("no driver".to_owned())));
        let refusal = choose(asked, yes, not("recurrent layers")).unwrap_err();
        assert_eq!(refusal.to_string(), "the GPU can't compute this model: recurrent layers");
    }
}
