//! The memory that a model would have.

use anyhow::Context;
use kindling_api::{NodeEnvelope, NodeGpu, ReservationState};
use kindling_envelope::{Bytes, Node, Resident};
use kube::ResourceExt;

use crate::cluster;
use crate::doctor::gpu::{Depth, in_child};

const MEMINFO: &str = "/proc/meminfo";

/// A machine.
pub struct Machine {
    /// What is known of it.
    pub node: Node,
    /// Which one it is.
    pub name: Name,
    /// Whether its GPU can be used, as its agent says; nothing where there is no agent.
    gpu: Option<Result<(), String>>,
}

/// Which machine is meant.
pub enum Name {
    /// One of a given size that does nothing else.
    Given,
    /// The one that this runs on.
    This,
    /// A node of a cluster, with the models that have memory there.
    Node(String),
}

impl Machine {
    /// One of so much memory that does nothing else.
    pub fn given(total: Bytes) -> Self {
        Self { node: node(total, Bytes(0)), name: Name::Given, gpu: None }
    }

    /// This one, as it is now.
    ///
    /// # Errors
    /// If the system does not say how much memory there is.
    pub fn this() -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(MEMINFO)
            .with_context(|| format!("read {MEMINFO}; name the memory of a machine with --memory"))?;
        let (total, available) = parse(&text)?;
        Ok(Self { node: node(total, total.saturating_sub(available)), name: Name::This, gpu: None })
    }

    /// A node of the cluster, with the models that have memory there.
    ///
    /// # Errors
    /// If there is no cluster, no such node, or its agent has not measured it.
    pub async fn node(name: &str) -> anyhow::Result<Self> {
        let found = cluster::node(&cluster::connect().await?, name).await?;
        Self::of(&found)
    }

    fn of(found: &NodeEnvelope) -> anyhow::Result<Self> {
        let name = found.name_any();
        let memory = found.status.as_ref().and_then(|status| status.memory);
        let memory = memory.with_context(|| format!("the agent of node {name} has not measured its memory yet"))?;
        let residents = found.spec.reservations.iter().map(|held| Resident {
            name: held.model.clone(),
            bytes: Bytes(held.bytes),
            load_transient: match held.state {
                ReservationState::Pending | ReservationState::Loading => Bytes(held.load_transient_bytes),
                ReservationState::Resident | ReservationState::Releasing => Bytes(0),
            },
            priority: held.priority,
            may_leave: held.may_leave,
        });
        let node =
            Node { residents: residents.collect(), ..node(Bytes(memory.total_bytes), Bytes(memory.baseline_bytes)) };
        let gpu = found.status.as_ref().and_then(|status| status.gpu.as_ref()).map(NodeGpu::check);
        Ok(Self { node, name: Name::Node(name), gpu })
    }

    /// Whether its GPU can be used.
    ///
    /// # Errors
    /// Why not.
    pub fn gpu(&self) -> Result<(), String> {
        match &self.name {
            Name::Given => Err("nobody has said that the machine has one (--device cuda)".to_owned()),
            Name::This => in_child(Depth::Describe).usable().map(drop),
            Name::Node(_) => self.gpu.clone().unwrap_or_else(|| Err("the node's agent says nothing of one".to_owned())),
        }
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
    fn gpu_of_a_node_is_what_its_agent_says() {
        let machine = |gpu: Option<NodeGpu>| {
            let memory = Some(kindling_api::NodeMemory { total_bytes: 1 << 36, ..Default::default() });
            let mut node = NodeEnvelope::new("spark-1", kindling_api::NodeEnvelopeSpec::default());
            node.status = Some(kindling_api::NodeEnvelopeStatus { memory, gpu, ..Default::default() });
            Machine::of(&node).unwrap().gpu()
        };
        assert_eq!(machine(None), Err("the node's agent says nothing of one".to_owned()));
        assert_eq!(machine(Some(NodeGpu { usable: true, ..NodeGpu::default() })), Ok(()));
        let old = NodeGpu { reason: Some("driver too old".to_owned()), ..NodeGpu::default() };
        assert_eq!(machine(Some(old)), Err("driver too old".to_owned()));
        assert!(Machine::given(Bytes::gib(64)).gpu().unwrap_err().contains("--device cuda"));
    }

    #[test]
    fn memory_is_what_the_system_says() {
        let text = "MemTotal:       125506464 kB\nMemFree:  100 kB\nMemAvailable:   125000000 kB\n";
        assert_eq!(parse(text).unwrap(), (Bytes(125_506_464 << 10), Bytes(125_000_000 << 10)));
        let said = parse("MemTotal: 5 kB\nMemAvailable: 7 MB\n").unwrap_err().to_string();
        assert!(said.contains("MemAvailable"), "{said}");
    }
}
