//! `cargo xtask cluster`: a throwaway Kubernetes on this machine, made of real components, without docker.
//!
//! One or two nodes, each in its own network, mount and process namespace held by one process: ending that
//! process ends everything in the node. No node has a default route, so nothing in it reaches the outside.
//! One link joins the host to the nodes, so that the host reaches the API, Service addresses and pods directly.
//!
//! # The interface for tests
//! `up` writes `cluster.json` ([`record::ClusterRecord`]) into the state folder (`KINDLING_CLUSTER_STATE`, by default
//! `~/.cache/kindling/cluster/state`). A test reads `kubeconfig`, `kubectl`, `helm` and `image` from it; a process on
//! the host reaches `https://10.89.0.2:6443`, Service addresses (10.96.0.0/16) and pods (10.244.0.0/16) as they are.
//! For what only exists inside a node (mounts, container files) put `nodes[i].enter` in front of a command. A hostPath
//! volume of `nodes[i].cache_path` lies at `nodes[i].cache_host_path` on the host. No `cluster.json`: no cluster.

use std::path::PathBuf;

mod layout;

mod certificates;
mod cgroup;
mod config;
mod host;
mod image;
mod network;
mod node;
mod node_script;
mod parts;
mod record;
mod sysctl;
mod tools;

mod command;
mod holder;
mod lock;

mod down;
mod load_image;
mod status;
mod up;

/// Arguments of `cargo xtask cluster`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Make the cluster, or say that it is there already.
    Up(UpArgs),
    /// Put a program into every node as a container image.
    LoadImage(LoadImageArgs),
    /// End the cluster and remove what it made; the cache of built programs stays.
    Down,
    /// Say whether the cluster is healthy; ends with 1 if there is none.
    Status,
}

#[derive(clap::Args)]
struct UpArgs {
    /// How many nodes.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    nodes: u8,
    /// Only etcd, the API server and the controllers: no kubelet, so no pods run.
    #[arg(long)]
    control_plane_only: bool,
    /// The program that becomes the image `localhost/kindling:dev` on every node.
    #[arg(long, value_name = "PATH")]
    image_binary: Option<PathBuf>,
}

#[derive(clap::Args)]
struct LoadImageArgs {
    /// The program; the shared libraries that it needs go into the image with it.
    #[arg(long, value_name = "PATH")]
    binary: PathBuf,
    /// The image's name.
    #[arg(long, default_value = image::KINDLING_IMAGE)]
    name: String,
}

/// The helm that clusters of ours are used with, fetched if it is not in the cache. Installs packages that are missing.
pub fn helm() -> anyhow::Result<PathBuf> {
    host::install_packages()?;
    Ok(tools::prepare(&layout::Layout::from_env()?)?.helm)
}

/// Runs `cargo xtask cluster`.
pub fn run(args: Args) -> anyhow::Result<()> {
    let layout = layout::Layout::from_env()?;
    match args.command {
        Command::Up(UpArgs { nodes, control_plane_only, image_binary }) => {
            let shape = layout::Shape { num_nodes: nodes, control_plane_only };
            host::check_root()?;
            let _lock = lock::take()?;
            up::up(&layout, shape, image_binary.as_deref())
        }
        Command::LoadImage(LoadImageArgs { binary, name }) => {
            host::check_root()?;
            let _lock = lock::take()?;
            load_image::load_image(&layout, &binary, &name)
        }
        Command::Down => {
            host::check_root()?;
            let _lock = lock::take()?;
            down::down(&layout)
        }
        Command::Status => status::status(&layout),
    }
}
