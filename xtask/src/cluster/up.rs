//! `cargo xtask cluster up`: parts, certificates, network, nodes, and then waiting until pods can be made.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::cgroup::Hierarchies;
use super::config::{self, PAUSE_IMAGE};
use super::holder::Holder;
use super::image::{Image, KINDLING_IMAGE};
use super::layout::{Layout, Node, Shape};
use super::node_script::Script;
use super::parts::{self, Parts};
use super::record::{ClusterRecord, NodeRecord};
use super::tools::{self, Tools};
use super::{certificates, command, down, host, load_image, network, node, status, sysctl};

/// A busy machine of two cores took 11 s for two nodes.
const READY_WITHIN: Duration = Duration::from_secs(180);

/// Makes the cluster, or says that it is there.
pub fn up(layout: &Layout, shape: Shape, image_binary: Option<&Path>) -> anyhow::Result<()> {
    ensure!(!(shape.control_plane_only && shape.num_nodes > 1), "a control plane alone has one node");
    ensure!(!(shape.control_plane_only && image_binary.is_some()), "a control plane alone takes no image");
    if is_there(layout, shape)? {
        println!("the cluster is there and healthy");
    } else {
        host::prepare(shape)?;
        let parts = parts::prepare(layout)?;
        let tools = tools::prepare(layout)?;
        down::clean(layout)?;
        let began = Instant::now();
        make(layout, shape, &parts, &tools)?;
        println!("made in {:.1} s", began.elapsed().as_secs_f64());
    }
    if let Some(binary) = image_binary {
        load_image::load_image(layout, binary, KINDLING_IMAGE)?;
    }
    explain(layout)
}

fn is_there(layout: &Layout, shape: Shape) -> anyhow::Result<bool> {
    let Some(record) = ClusterRecord::read(layout)? else {
        return Ok(false);
    };
    if let Err(error) = status::health(layout, &record) {
        println!("the cluster that was here is broken ({error:#}): making it anew");
        return Ok(false);
    }
    ensure!(
        record.shape() == shape,
        "a healthy cluster of another shape is here: run `cargo xtask cluster down` first"
    );
    Ok(true)
}

fn make(layout: &Layout, shape: Shape, parts: &Parts, tools: &Tools) -> anyhow::Result<()> {
    let hierarchies = Hierarchies::detect()?;
    std::fs::create_dir_all(&layout.state).with_context(|| format!("create {}", layout.state.display()))?;
    sysctl::save(&layout.state)?;
    certificates::create(&layout.pki(), shape)?;
    write_kubeconfigs(layout, shape)?;
    if !shape.control_plane_only {
        Image { name: PAUSE_IMAGE, binary: &parts.pause }.write(&layout.state.join("pause.tar"))?;
    }
    network::create(shape)?;
    let mut holders = Vec::new();
    let mut records = Vec::new();
    for node in shape.nodes() {
        let holder = node::start(&Script { layout, parts, tools, shape, node }, &hierarchies)?;
        holders.push(holder);
        records.push(NodeRecord::new(layout, node, holder));
    }
    let record = ClusterRecord::new(layout, shape, tools, &parts.version, records);
    settle(shape, &record, &holders, parts).map_err(|error| give_up(error, layout, shape, &holders))?;
    record.write(layout)
}

fn write_kubeconfigs(layout: &Layout, shape: Shape) -> anyhow::Result<()> {
    let pki = layout.pki();
    let mut users: Vec<String> = ["controller-manager", "scheduler", "kube-proxy"].map(str::to_owned).to_vec();
    users.extend(shape.nodes().map(|node| format!("kubelet-{}", node.name())));
    for user in users {
        let file = pki.join(format!("{user}.kubeconfig"));
        std::fs::write(&file, config::kubeconfig(&pki, &user).to_string())
            .with_context(|| format!("write {}", file.display()))?;
    }
    let admin = serde_json::to_string_pretty(&config::kubeconfig(&pki, "admin"))?;
    std::fs::write(layout.admin_kubeconfig(), admin).context("write the administrator's kubeconfig")
}

/// Waits until the first pod would be taken and run.
fn settle(shape: Shape, record: &ClusterRecord, holders: &[Holder], parts: &Parts) -> anyhow::Result<()> {
    let deadline = Instant::now() + READY_WITHIN;
    let wait = |what: &str, words: &[&str], expected: &dyn Fn(&str) -> bool| -> anyhow::Result<()> {
        loop {
            let said = command::output(status::kubectl(record).args(words));
            if said.as_deref().is_ok_and(expected) {
                return Ok(());
            }
            ensure!(holders.iter().all(|found| found.init.is_alive()), "a node ended while waiting for {what}");
            if Instant::now() > deadline {
                let last = said.unwrap_or_else(|error| error.to_string());
                bail!("no {what} within {} s: {last}", READY_WITHIN.as_secs());
            }
            std::thread::sleep(Duration::from_millis(300));
        }
    };
    wait("ready API", &["get", "--raw", "/readyz"], &|said| said.trim() == "ok")?;
    check_openapi(record, parts)?;
    wait("service account", &["get", "serviceaccount", "default", "-o", "name"], &|said| !said.is_empty())?;
    if shape.control_plane_only {
        return Ok(());
    }
    apply(record, &config::dns_service().to_string())?;
    let jsonpath = "jsonpath={range .items[*]}{.status.conditions[?(@.type==\"Ready\")].status} {end}";
    wait("ready nodes", &["get", "nodes", "-o", jsonpath], &|said| {
        let states: Vec<&str> = said.split_whitespace().collect();
        states.len() == usize::from(shape.num_nodes) && states.iter().all(|&state| state == "True")
    })?;
    Ok(())
}

/// Components built with Go 1.27 serve keys that no client understands: every apply would fail. Looked at once a build.
fn check_openapi(record: &ClusterRecord, parts: &Parts) -> anyhow::Result<()> {
    let mark = parts.node.with_extension("openapi-checked");
    if mark.exists() {
        return Ok(());
    }
    let document = command::output(status::kubectl(record).args(["get", "--raw", "/openapi/v2"]))?;
    ensure!(
        !document.contains("\"Extensions\":{}"),
        "the API's OpenAPI document is broken: was it built with Go 1.27?"
    );
    File::create(&mark).with_context(|| format!("write {}", mark.display())).map(drop)
}

fn apply(record: &ClusterRecord, objects: &str) -> anyhow::Result<()> {
    let mut kubectl = status::kubectl(record);
    let mut kubectl = kubectl
        .args(["create", "--validate=false", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .context("start kubectl")?;
    kubectl.stdin.take().context("write to kubectl")?.write_all(objects.as_bytes()).context("write to kubectl")?;
    ensure!(kubectl.wait().context("wait for kubectl")?.success(), "kubectl did not make the name server's Service");
    Ok(())
}

/// Nothing half-made keeps running; the logs stay until the next `up` or `down`.
fn give_up(error: anyhow::Error, layout: &Layout, shape: Shape, holders: &[Holder]) -> anyhow::Error {
    for holder in holders {
        if let Err(error) = holder.end() {
            println!("{error:#}");
        }
    }
    for node in shape.nodes() {
        let logs = layout.logs(node);
        println!("the logs are in {}", logs.display());
        let tail = Command::new("bash").arg("-c").arg("tail -n 4 -- *.log").current_dir(&logs).output();
        println!("{}", tail.map(|tail| String::from_utf8_lossy(&tail.stdout).into_owned()).unwrap_or_default());
    }
    error.context("make the cluster")
}

fn explain(layout: &Layout) -> anyhow::Result<()> {
    let record = ClusterRecord::read(layout)?.context("read the cluster's record")?;
    let first = record.nodes.first().context("the cluster should have a node")?;
    println!(
        "Kubernetes {} on {} node(s); described in {}",
        record.kubernetes_version,
        record.nodes.len(),
        layout.record().display()
    );
    println!("  export KUBECONFIG={}", record.kubeconfig.display());
    println!("  {} get nodes", record.kubectl.display());
    println!(
        "from this machine the API, Services ({}) and pods are reachable as they are",
        super::layout::SERVICE_RANGE
    );
    println!("inside {}: {} COMMAND", Node(0).name(), first.enter.join(" "));
    Ok(())
}
