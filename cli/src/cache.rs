//! `kindling cache`: put weights into a cache by hand, see what is there, take it out again.

// The listing is this command's result, so it goes to standard output.
#![allow(clippy::print_stdout)]

use std::io;
use std::os::unix::fs::lchown;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Subcommand;
use kindling_agent::cache::Cache;
use kindling_agent::source::HubSource;

use crate::bars::{Bytes, mebibytes};

/// Where the chart expects a node's cache.
const NODE_CACHE: &str = "/var/lib/kindling/cache";
/// The user that Kindling's pods run as.
const POD_USER: u32 = 65532;

/// The cache of weights on this machine.
#[derive(Subcommand)]
pub enum Command {
    /// Put a file into the cache as if it had been downloaded.
    Import(ImportArgs),
    /// List the models in the cache.
    List(ListArgs),
    /// Take a model out of the cache, however it came there.
    Remove(RemoveArgs),
}

/// Which cache.
#[derive(clap::Args)]
pub struct Place {
    /// Folder of the cache [default: ~/.cache/kindling]
    #[arg(long, env = "KINDLING_CACHE", value_name = "FOLDER")]
    cache: Option<PathBuf>,
    /// The cache that pods use on this node; what is imported is given to the pods' user.
    #[arg(long, value_name = "FOLDER", num_args = 0..=1, require_equals = true, default_missing_value = NODE_CACHE)]
    node: Option<PathBuf>,
}

/// Arguments of `kindling cache import`.
#[derive(clap::Args)]
pub struct ImportArgs {
    /// The file, e.g. model.gguf; its name is kept.
    file: PathBuf,
    /// What to call it: hf:org/repo or hf:org/repo@revision, as in a LocalModel's source.
    #[arg(long = "as", value_name = "NAME")]
    name: HubSource,
    #[command(flatten)]
    place: Place,
}

/// Arguments of `kindling cache list`.
#[derive(clap::Args)]
pub struct ListArgs {
    #[command(flatten)]
    place: Place,
}

/// Arguments of `kindling cache remove`.
#[derive(clap::Args)]
pub struct RemoveArgs {
    /// Which model: hf:org/repo or hf:org/repo@revision, as `kindling cache list` prints it.
    name: HubSource,
    /// Only this file of it; may be given several times.
    #[arg(long = "file", value_name = "FILE")]
    files: Vec<String>,
    #[command(flatten)]
    place: Place,
}

/// Runs `kindling cache`.
pub fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Import(args) => import(args),
        Command::List(args) => list(args),
        Command::Remove(args) => remove(args),
    }
}

impl Place {
    fn open(&self) -> anyhow::Result<Cache> {
        // The flag goes before the environment, which may name a cache for other commands.
        match self.node.as_ref().or(self.cache.as_ref()) {
            Some(folder) => Ok(Cache::at(folder)),
            None => Ok(Cache::of_user()?),
        }
    }
}

fn import(args: ImportArgs) -> anyhow::Result<()> {
    let ImportArgs { file, name, place } = args;
    let cache = place.open()?;
    let total = std::fs::metadata(&file).ok().map(|data| data.len());
    let mut bar = Bytes::new("import");
    let imported = cache.import(&file, &name, &mut |bytes| bar.set(bytes, total));
    bar.finish();
    let imported = imported?;
    if place.node.is_some() {
        give_to_pods(cache.root(), &imported.path)
            .with_context(|| format!("give {} to the pods' user; this needs root", imported.path.display()))?;
    }
    let did = if imported.already_there { "already in the cache" } else { "imported" };
    println!("{did}: {name}, {} ({})", imported.path.display(), mebibytes(imported.record.bytes));
    println!("sha256: {}", imported.record.sha256);
    Ok(())
}

/// Pods run without root and must be able to add to the node's cache. Only what the import touched changes hands, and
/// no link is followed: the pods' user can write here, root must not be led elsewhere.
fn give_to_pods(root: &Path, imported: &Path) -> io::Result<()> {
    let folder = imported.parent().unwrap_or(root);
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            lchown(entry.path(), Some(POD_USER), Some(POD_USER))?;
        }
    }
    for path in folder.ancestors().take_while(|path| path.starts_with(root)) {
        lchown(path, Some(POD_USER), Some(POD_USER))?;
    }
    Ok(())
}

fn list(args: ListArgs) -> anyhow::Result<()> {
    let cache = args.place.open()?;
    let models = cache.list()?;
    if models.is_empty() {
        println!("nothing in {}", cache.root().display());
    }
    for model in models {
        let files = if model.num_files == 1 { "file" } else { "files" };
        println!("{}  {} {files}  {}", model.name, model.num_files, mebibytes(model.num_bytes));
    }
    Ok(())
}

fn remove(args: RemoveArgs) -> anyhow::Result<()> {
    let RemoveArgs { name, files, place } = args;
    let freed = place.open()?.remove(&name, &files)?;
    println!("removed: {name} ({})", mebibytes(freed));
    Ok(())
}
