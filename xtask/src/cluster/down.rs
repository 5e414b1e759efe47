//! `cargo xtask cluster down`: looks at what is left of a cluster, plans its end, and carries the plan out.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use super::cgroup::{self, Hierarchies};
use super::holder::Holder;
use super::layout::{HOST_DEVICE, KUBELET_PATH, Layout, NODE_CACHE_PATH, Node};
use super::{command, sysctl};

/// One thing to undo.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    EndNode(Holder),
    DeleteHostDevice,
    DeleteNetns(String),
    RemoveCgroup(PathBuf),
    RestoreSysctls,
    RemoveIfEmpty(PathBuf),
    RemoveState,
}

/// What there is of a cluster, whole or broken.
#[derive(Debug, Default)]
struct Remains {
    holders: Vec<Holder>,
    has_host_device: bool,
    netns: Vec<String>,
    cgroups: Vec<PathBuf>,
    has_state: bool,
}

/// Ends the cluster; without one it says so.
pub fn down(layout: &Layout) -> anyhow::Result<()> {
    let steps = plan(look(layout)?);
    if steps.is_empty() {
        println!("no cluster is here");
        return Ok(());
    }
    let num_nodes = steps.iter().filter(|step| matches!(step, Step::EndNode(_))).count();
    carry_out(layout, &steps)?;
    println!("ended {num_nodes} node(s) and removed what they left");
    Ok(())
}

/// Removes what an earlier cluster left, silently: `up` calls it before it makes anything.
pub fn clean(layout: &Layout) -> anyhow::Result<()> {
    carry_out(layout, &plan(look(layout)?))
}

/// Names and addresses are the machine's, so a cluster whose state lies elsewhere must not be taken apart from here.
fn check_owner(remains: &Remains) -> anyhow::Result<()> {
    for name in remains.netns.iter().filter(|_| remains.holders.is_empty()) {
        let pids = command::output(&mut command::command(&["ip", "netns", "pids", name]))?;
        let pids = pids.split_whitespace().collect::<Vec<_>>().join(" ");
        ensure!(
            pids.is_empty(),
            "processes {pids} run in {name} and this state folder does not know them: does the cluster belong to another \
             KINDLING_CLUSTER_STATE?"
        );
    }
    Ok(())
}

fn look(layout: &Layout) -> anyhow::Result<Remains> {
    let hierarchies = Hierarchies::detect()?;
    let mut remains = Remains {
        has_host_device: Path::new("/sys/class/net").join(HOST_DEVICE).exists(),
        has_state: layout.state.exists(),
        ..Remains::default()
    };
    for node in Node::every_possible() {
        remains.holders.extend(
            Holder::read(&layout.holder(node)).filter(|found| found.holder.is_alive() || found.init.is_alive()),
        );
        remains.netns.extend(node.netns_path().exists().then(|| node.netns()));
        remains.cgroups.extend(hierarchies.groups(node).into_iter().filter(|group| group.exists()));
    }
    check_owner(&remains)?;
    Ok(remains)
}

/// Processes first, for they hold the rest; the state last, for it says what is to be undone.
fn plan(remains: Remains) -> Vec<Step> {
    let Remains { holders, has_host_device, netns, cgroups, has_state } = remains;
    let mut steps: Vec<Step> = holders.into_iter().map(Step::EndNode).collect();
    if has_host_device {
        steps.push(Step::DeleteHostDevice);
    }
    steps.extend(netns.into_iter().map(Step::DeleteNetns));
    steps.extend(cgroups.into_iter().map(Step::RemoveCgroup));
    if has_state {
        steps.push(Step::RestoreSysctls);
        steps.extend([KUBELET_PATH, NODE_CACHE_PATH].map(|path| Step::RemoveIfEmpty(path.into())));
        steps.push(Step::RemoveState);
    }
    steps
}

fn carry_out(layout: &Layout, steps: &[Step]) -> anyhow::Result<()> {
    for step in steps {
        match step {
            Step::EndNode(holder) => holder.end()?,
            Step::DeleteHostDevice => {
                drop(command::output(&mut command::command(&["ip", "link", "del", HOST_DEVICE]))?)
            }
            Step::DeleteNetns(name) => drop(command::output(&mut command::command(&["ip", "netns", "del", name]))?),
            Step::RemoveCgroup(group) => cgroup::remove(group)?,
            Step::RestoreSysctls => sysctl::restore(&layout.state)?,
            // The mount points that the node's script may have made on the host. Others' files in them keep them.
            Step::RemoveIfEmpty(path) => drop(std::fs::remove_dir(path)),
            Step::RemoveState => {
                std::fs::remove_dir_all(&layout.state).with_context(|| format!("remove {}", layout.state.display()))?
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::holder::Process;
    use super::*;

    fn holder() -> Holder {
        Holder { holder: Process { pid: 10, start_time: 1 }, init: Process { pid: 11, start_time: 2 } }
    }

    #[test]
    fn nothing_there_is_nothing_to_do() {
        assert!(plan(Remains::default()).is_empty());
    }

    #[test]
    fn processes_end_first_and_state_goes_last() {
        let steps = plan(Remains {
            holders: vec![holder()],
            has_host_device: true,
            netns: vec!["kindling-node-0".into()],
            cgroups: vec!["/sys/fs/cgroup/cpu/kindling-node-0".into()],
            has_state: true,
        });
        assert_eq!(steps.first(), Some(&Step::EndNode(holder())));
        assert_eq!(steps.last(), Some(&Step::RemoveState));
        let restored = steps.iter().position(|step| *step == Step::RestoreSysctls).expect("should restore");
        assert!(restored < steps.len() - 1);
    }

    #[test]
    fn broken_remains_without_state_are_still_removed() {
        let steps =
            plan(Remains { has_host_device: true, netns: vec!["kindling-node-0".into()], ..Remains::default() });
        assert_eq!(steps, [Step::DeleteHostDevice, Step::DeleteNetns("kindling-node-0".into())]);
    }
}
