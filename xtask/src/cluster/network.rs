//! The network between the host and the nodes, as a list of `ip` commands.
//!
//! A bridge in node 0 joins all: node 0's own address lies on it, the host and node 1 come by veth. The host gets one
//! device and routes to Service and pod addresses, which it reaches as an outsider does. No node gets a default
//! route, and the node's script drops what a node or pod would open towards the host's end.

use anyhow::Context;

use super::command;
use super::layout::{HOST_DEVICE, HOST_IP, Node, SERVICE_RANGE, Shape};

const BRIDGE: &str = "kindling0";

/// Makes the namespaces, devices and routes.
pub fn create(shape: Shape) -> anyhow::Result<()> {
    for words in commands(shape) {
        let words: Vec<&str> = words.split(' ').collect();
        command::output(&mut command::command(&words))?;
    }
    // Without IPv6 on the link there is one way less to think about. Missing where the kernel has none.
    let setting = format!("/proc/sys/net/ipv6/conf/{HOST_DEVICE}/disable_ipv6");
    if std::path::Path::new(&setting).exists() {
        std::fs::write(&setting, "1").with_context(|| format!("write {setting}"))?;
    }
    Ok(())
}

fn commands(shape: Shape) -> Vec<String> {
    let first = Node(0);
    let (netns, ip) = (first.netns(), first.ip());
    let mut commands = vec![
        format!("ip netns add {netns}"),
        format!("ip -n {netns} link set lo up"),
        format!("ip -n {netns} link add {BRIDGE} type bridge"),
        format!("ip -n {netns} addr add {ip}/24 dev {BRIDGE}"),
        format!("ip -n {netns} link set {BRIDGE} up"),
        format!("ip -n {netns} route add {SERVICE_RANGE} dev {BRIDGE}"),
        format!("ip link add {HOST_DEVICE} type veth peer name host netns {netns}"),
        format!("ip -n {netns} link set host master {BRIDGE} up"),
        format!("ip addr add {HOST_IP}/24 dev {HOST_DEVICE}"),
        format!("ip link set {HOST_DEVICE} up"),
        format!("ip route add {SERVICE_RANGE} via {ip}"),
    ];
    for node in shape.nodes() {
        commands.push(format!("ip route add {} via {}", node.pod_range(), node.ip()));
    }
    for node in shape.nodes().filter(|&node| node != first) {
        commands.extend(join(node, first));
    }
    commands
}

/// Brings one more node to the bridge, and routes between its pods and the first node's.
fn join(node: Node, first: Node) -> Vec<String> {
    let (netns, ip, first_netns) = (node.netns(), node.ip(), first.netns());
    let end = node.name();
    vec![
        format!("ip netns add {netns}"),
        format!("ip -n {netns} link set lo up"),
        format!("ip -n {netns} link add eth0 type veth peer name {end} netns {first_netns}"),
        format!("ip -n {first_netns} link set {end} master {BRIDGE} up"),
        format!("ip -n {netns} addr add {ip}/24 dev eth0"),
        format!("ip -n {netns} link set eth0 up"),
        format!("ip -n {netns} route add {SERVICE_RANGE} dev eth0"),
        format!("ip -n {netns} route add {} via {}", first.pod_range(), first.ip()),
        format!("ip -n {first_netns} route add {} via {ip}", node.pod_range()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_node_gets_a_default_route() {
        let commands = commands(Shape { num_nodes: 2, control_plane_only: false });
        assert!(commands.iter().all(|command| !command.contains("default") && !command.contains("0.0.0.0")));
    }

    #[test]
    fn two_nodes_know_the_way_to_each_others_pods() {
        let commands = commands(Shape { num_nodes: 2, control_plane_only: false });
        for route in [
            "ip -n kindling-node-1 route add 10.244.0.0/24 via 10.89.0.2",
            "ip -n kindling-node-0 route add 10.244.1.0/24 via 10.89.0.3",
            "ip route add 10.244.1.0/24 via 10.89.0.3",
        ] {
            assert!(commands.iter().any(|command| command == route), "{route}");
        }
    }
}
