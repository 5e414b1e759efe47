//! Whether a LocalModel is let into the cluster. Pure, and decided on what is known already: nobody is asked.
//!
//! Only what is certain is denied. The gate is reconcile's; this is where a person hears of it at once.

use kindling_api::{Activation, LocalModel, MemoryPolicy};
use kindling_envelope::ledger::Verdict;
use kindling_envelope::{Activations, Bytes, Device};

use crate::config::OperatorConfig;
use crate::dereference::References;
use crate::facts::{Asked, Facts};
use crate::placement::{Chosen, LastRound};
use crate::validate::{ValidatedModel, validate};

/// What is said while nobody can tell.
pub const UNKNOWN: &str = "what it takes is not known yet; see the condition MemoryAdmitted in a few seconds";

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Let in.
    Allowed,
    /// Let in, with words for the person who asks.
    Warned(String),
    /// Not let in.
    Denied(String),
}

/// What is known of a source.
#[derive(Clone, Debug)]
pub enum KnownFacts {
    /// Nothing.
    Nothing,
    /// What it takes, served as it is asked for.
    Exact(Facts),
    /// What it takes served otherwise: weights and cache are the same, a step may hold less or more.
    ServedOtherwise(Facts),
}

/// Decides. `old` is the object before an update; `known` answers from memory.
pub fn decide(
    object: &LocalModel,
    old: Option<&LocalModel>,
    config: &OperatorConfig,
    known: impl Fn(&Asked) -> KnownFacts,
    last: Option<&LastRound>,
) -> Decision {
    let is_leaving = object.metadata.deletion_timestamp.is_some();
    if is_leaving || old.is_some_and(|old| old.spec == object.spec) {
        return Decision::Allowed;
    }
    let model = match validate(object, &References::default(), config) {
        Ok(model) => model,
        Err(refusal) => return Decision::Denied(refusal.to_string()),
    };
    if object.spec.replicas == 0 || object.spec.lifecycle.activation == Activation::Suspended {
        return Decision::Allowed; // asks for no memory
    }
    let Some(last) = last else { return on_runnable(&known(&model.asked(model.device.unwrap_or(Device::Cpu)))) };
    let not_computed = match known(&model.asked(Device::Cuda)) {
        KnownFacts::Exact(facts) => Some(facts.not_runnable).filter(|why| !why.is_empty()),
        KnownFacts::ServedOtherwise(_) | KnownFacts::Nothing => None,
    };
    let chosen = last.choose(&model, not_computed.as_deref());
    if let Some(refusal) = chosen.refusal() {
        return if chosen.is_certain() { Decision::Denied(refusal) } else { Decision::Warned(refusal) };
    }
    let (facts, is_exact) = match known(&model.asked(chosen.device)) {
        KnownFacts::Exact(facts) => (facts, true),
        KnownFacts::ServedOtherwise(facts) => (facts, false),
        KnownFacts::Nothing => return unknown(),
    };
    if !facts.not_runnable.is_empty() {
        return not_runnable(&facts);
    }
    let placed = (&model, &chosen);
    if is_exact || is_too_large_without_steps(object, placed, &facts, last) {
        on_memory(object, placed, &facts, last)
    } else {
        unknown()
    }
}

/// Before the first round nobody knows what would fit.
fn on_runnable(known: &KnownFacts) -> Decision {
    match known {
        KnownFacts::Exact(facts) | KnownFacts::ServedOtherwise(facts) if !facts.not_runnable.is_empty() => {
            not_runnable(facts)
        }
        _ => unknown(),
    }
}

fn not_runnable(facts: &Facts) -> Decision {
    Decision::Warned(format!("this version can't run it: {}", facts.not_runnable))
}

fn unknown() -> Decision {
    Decision::Warned(UNKNOWN.to_owned())
}

fn on_memory(object: &LocalModel, placed: (&ValidatedModel, &Chosen), facts: &Facts, last: &LastRound) -> Decision {
    let verdict = last.verdict(object, placed, &facts.model);
    let words = verdict.to_string();
    match verdict {
        Verdict::Refused { .. } if last.has_unmeasured_node_for(placed.1) => unknown(),
        Verdict::Refused { .. } if object.spec.memory.policy == MemoryPolicy::Warn => Decision::Warned(words),
        Verdict::Refused { .. } => Decision::Denied(words),
        Verdict::WaitingForMemory { .. }
        | Verdict::WaitingForRelease { .. }
        | Verdict::SwapDeferred { .. }
        | Verdict::NoUsableNode { .. }
        | Verdict::NoNode => Decision::Warned(format!("it has to wait: {words}")),
        _ => Decision::Allowed,
    }
}

/// Weights and cache alone, which do not depend on what a step holds, fit nowhere.
fn is_too_large_without_steps(
    object: &LocalModel,
    placed: (&ValidatedModel, &Chosen),
    facts: &Facts,
    last: &LastRound,
) -> bool {
    let none = Bytes(0);
    let mut least = facts.model.clone();
    least.activations = Activations::Planned { fixed: none, per_token: none, per_sequence: none };
    matches!(last.verdict(object, placed, &least), Verdict::Refused { .. })
}

#[cfg(test)]
mod tests;
