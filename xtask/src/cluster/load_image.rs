//! `cargo xtask cluster load-image`: puts a program into every node of a running cluster as an image.

use std::path::Path;

use anyhow::{Context, ensure};

use super::holder::Holder;
use super::image::{self, Image, KINDLING_IMAGE};
use super::layout::Layout;
use super::record::ClusterRecord;

/// Makes the image and imports it everywhere.
pub fn load_image(layout: &Layout, binary: &Path, name: &str) -> anyhow::Result<()> {
    let mut record = ClusterRecord::read(layout)?.context("no cluster is here: run `cargo xtask cluster up` first")?;
    ensure!(!record.control_plane_only, "this cluster runs no pods, so it takes no images");
    let archive = layout.state.join("image.tar");
    Image { name, binary }.write(&archive)?;
    for node in record.shape().nodes() {
        let holder =
            Holder::read(&layout.holder(node)).with_context(|| format!("find the holder of {}", node.name()))?;
        image::import(holder, &archive).with_context(|| format!("import {name} on {}", node.name()))?;
    }
    let bytes = std::fs::metadata(&archive).context("read the archive's size")?.len();
    std::fs::remove_file(&archive).context("remove the archive")?;
    println!(
        "loaded {name} ({} MB) on {} node(s); use imagePullPolicy IfNotPresent or Never",
        bytes / 1_000_000,
        record.nodes.len()
    );
    if name == KINDLING_IMAGE {
        record.image = Some(name.to_owned());
        record.write(layout)?;
    }
    Ok(())
}
