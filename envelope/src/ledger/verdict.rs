//! What is said about a wish: why it has memory, or what it waits for.

use std::fmt;

use crate::{Alternatives, Bytes, Shortfall};

use super::draft::Draft;
use super::queue::check_empty_of;
use super::{Reservation, State, Time};

/// What became of a wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It has memory.
    Admitted {
        /// Where.
        node: String,
        /// How far it is.
        state: State,
    },
    /// It has memory although it fits nowhere, because that was asked.
    Overridden {
        /// Where.
        node: String,
        /// What is missing there.
        shortfall: Shortfall,
    },
    /// It has memory on a node that does not answer, and keeps it until its pod is known to be gone.
    NodeLost {
        /// Where.
        node: String,
    },
    /// It has memory as it was; as it is asked now it would not come back.
    ChangeRefused {
        /// What is missing, with itself gone, and what would fit.
        misfit: Box<Misfit>,
    },
    /// It fits on no node that it may go to, even when nothing else is there.
    Refused {
        /// What is missing on each, and what would fit.
        misfits: Vec<Misfit>,
    },
    /// Others hold what it needs, and do not leave for it.
    WaitingForMemory {
        /// Who holds what on each node.
        nodes: Vec<Busy>,
        /// Who has waited longer or comes first, and gets room there before it.
        behind: Vec<String>,
    },
    /// It fits when they are gone, and they leave.
    WaitingForRelease {
        /// Where.
        node: String,
        /// Who leaves.
        who: Vec<Holder>,
    },
    /// It fits when they are gone; they may leave later.
    SwapDeferred {
        /// Where.
        node: String,
        /// When they may, as far as is known.
        until: Time,
        /// Who is to leave.
        who: Vec<Holder>,
    },
    /// It would fit on these nodes; its weights are on none of them.
    WaitingForWeights {
        /// Where it would fit.
        nodes: Vec<String>,
    },
    /// The nodes on which it would fit take nothing.
    NoUsableNode {
        /// Why each does not.
        nodes: Vec<(String, Unusable)>,
    },
    /// Each node on which it would fit has another copy of the model, or is about to.
    OneCopyPerNode {
        /// Which.
        nodes: Vec<String>,
    },
    /// There is no node that it may go to.
    NoNode,
    /// It failed before and is tried again then.
    BackingOff {
        /// When.
        until: Time,
    },
    /// No request waits for it.
    Idle,
    /// It is not to be loaded.
    Suspended,
    /// What it takes is not known yet.
    FactsUnknown,
}

/// Why a node takes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unusable {
    /// It does not answer.
    Lost,
    /// It was cordoned.
    Cordoned,
    /// Its agent is not there.
    NoAgent,
    /// It runs out of memory.
    Pressure,
}

/// What is missing on a node, and what would fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// Where.
    pub node: String,
    /// What is missing.
    pub shortfall: Shortfall,
    /// What would fit instead.
    pub alternatives: Alternatives,
}

/// A node whose memory is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Busy {
    /// Where.
    pub node: String,
    /// What is missing; nothing, if what is free is kept for somebody.
    pub shortfall: Option<Shortfall>,
    /// Who holds it.
    pub who: Vec<Holder>,
}

/// Who holds memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// What it is called.
    pub name: String,
    /// How much.
    pub bytes: Bytes,
    /// How far it is.
    pub state: State,
}

/// Says where everybody is who has memory and about whom nothing else was said.
pub(super) fn of_admitted(draft: &mut Draft<'_>) {
    let keys: Vec<&str> = draft.wishes.keys().copied().filter(|key| !draft.verdicts.contains_key(*key)).collect();
    for key in keys {
        let Some((node, held)) = draft.place(key) else { continue };
        let (node, state) = (node.to_owned(), held.state);
        let is_lost = draft.nodes.get(node.as_str()).is_some_and(|facts| facts.lost);
        let missing = check_empty_of(draft, &node, &held.terms).filter(|_| held.terms.overridden);
        let verdict = match missing {
            _ if is_lost => Verdict::NodeLost { node },
            Some(shortfall) => Verdict::Overridden { node, shortfall },
            None => Verdict::Admitted { node, state },
        };
        draft.verdicts.insert(key.to_owned(), verdict);
    }
}

/// Who holds what: the largest first.
pub(super) fn holders<'r>(all: impl Iterator<Item = &'r Reservation>) -> Vec<Holder> {
    let holder = |held: &Reservation| Holder { name: held.name.clone(), bytes: held.terms.bytes, state: held.state };
    let mut holders: Vec<Holder> = all.map(holder).collect();
    holders.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));
    holders
}

impl Verdict {
    /// The node on which it has memory.
    pub fn node(&self) -> Option<&str> {
        match self {
            Self::Admitted { node, .. } | Self::Overridden { node, .. } | Self::NodeLost { node } => Some(node),
            Self::ChangeRefused { misfit } => Some(&misfit.node),
            _ => None,
        }
    }
}

/// `one, two and three`.
fn list<T: fmt::Display>(all: &[T]) -> String {
    let texts: Vec<String> = all.iter().map(ToString::to_string).collect();
    match texts.as_slice() {
        [] => "nobody".to_owned(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let leaves = if self.state == State::Releasing { ", leaves" } else { "" };
        write!(out, "{} ({}{leaves})", self.name, self.bytes)
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Lost => "does not answer",
            Self::Cordoned => "is cordoned",
            Self::NoAgent => "has no agent",
            Self::Pressure => "runs out of memory",
        })
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Alternatives { context, concurrency, kv_tokens, fp8_kv_cache, leaving } = &self.alternatives;
        let mut ways = Vec::new();
        ways.extend(context.map(|tokens| format!("contextLength {tokens}")));
        ways.extend(concurrency.map(|number| format!("maxConcurrency {number}")));
        ways.extend(kv_tokens.map(|tokens| format!("kvCache.tokens {tokens}")));
        ways.extend(fp8_kv_cache.then(|| "kvCache.type Fp8".to_owned()));
        ways.extend(leaving.as_ref().map(|names| format!("unloading {}", list(names))));
        write!(out, "{}: {}", self.node, self.shortfall)?;
        match ways.as_slice() {
            [] => out.write_str("; no context length or concurrency would fit"),
            ways => write!(out, "; would fit with {}", ways.join(", or with ")),
        }
    }
}

impl fmt::Display for Busy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.shortfall {
            Some(shortfall) => write!(out, "{}: {shortfall}; held by {}", self.node, list(&self.who)),
            None => write!(out, "{}: what is free is kept", self.node),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = |texts: Vec<String>| texts.join("; ");
        match self {
            Self::Admitted { node, state } => write!(out, "has memory on {node} ({state:?})"),
            Self::Overridden { node, shortfall } => {
                write!(out, "has memory on {node} although it does not fit (policy Warn): {shortfall}")
            }
            Self::NodeLost { node } => write!(out, "{node} does not answer; its memory is kept until its pod is gone"),
            Self::ChangeRefused { misfit } => write!(out, "stays as it is, the change does not fit: {misfit}"),
            Self::Refused { misfits } => {
                write!(out, "fits on no node: {}", joined(misfits.iter().map(ToString::to_string).collect()))
            }
            Self::WaitingForMemory { nodes, behind } => {
                out.write_str(&joined(nodes.iter().map(ToString::to_string).collect()))?;
                if behind.is_empty() { Ok(()) } else { write!(out, "; first comes {}", list(behind)) }
            }
            Self::WaitingForRelease { node, who } => {
                write!(out, "waits on {node} until the memory of {} is back", list(who))
            }
            Self::SwapDeferred { node, who, .. } => write!(out, "waits on {node} until {} may leave", list(who)),
            Self::WaitingForWeights { nodes } => write!(out, "waits for its weights on {}", list(nodes)),
            Self::NoUsableNode { nodes } => joined_nodes(out, nodes),
            Self::OneCopyPerNode { nodes } => {
                write!(out, "each node has at most one copy of a model, and {} has one", list(nodes))
            }
            Self::NoNode => out.write_str("there is no node that it may go to"),
            Self::BackingOff { .. } => out.write_str("failed and is tried again later"),
            Self::Idle => out.write_str("no request waits for it"),
            Self::Suspended => out.write_str("is suspended"),
            Self::FactsUnknown => out.write_str("what it takes is not known yet"),
        }
    }
}

fn joined_nodes(out: &mut fmt::Formatter<'_>, nodes: &[(String, Unusable)]) -> fmt::Result {
    let texts: Vec<String> = nodes.iter().map(|(node, why)| format!("{node} {why}")).collect();
    write!(out, "would fit, but {}", list(&texts))
}
