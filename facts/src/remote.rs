//! The heads of a checkpoint on a hub or at an address.

use futures::{StreamExt, TryStreamExt, stream};
use kindling_agent::hub::{Hub, RemoteFile};
use kindling_agent::source::{HubSource, check_file_name};
use kindling_models::gguf::GgufHeader;

use crate::FactsError;
use crate::sparse::{Beginning, Heads};

/// Requests at a time.
const PARALLEL: usize = 16;
/// Enough for the head of nearly every shard; one of a file with everything is longer.
const FIRST_SAFETENSORS_BYTES: u64 = 128 << 10;
/// The heads of large shards have a few MiB; what the runtime's reader refuses need not be read.
const MAX_SAFETENSORS_BYTES: u64 = 100_000_000;
/// Small vocabularies fit.
const FIRST_GGUF_BYTES: u64 = 2 << 20;
/// Each request for more of a GGUF head makes it so many times as long.
const GGUF_GROWTH: u64 = 4;
/// The largest known vocabularies stay below 32 MiB.
const MAX_GGUF_BYTES: u64 = 256 << 20;
/// Of `config.json` and the index of shards.
const MAX_JSON_BYTES: u64 = 64 << 20;
/// What the reader of weights looks at beside them.
const SMALL_FILES: [&str; 3] = ["config.json", "hf_quant_config.json", "model.safetensors.index.json"];

/// Reads the heads of what a repository, or `files` of it, would bring.
///
/// # Errors
/// [`FactsError`] naming what could not be had.
pub(crate) async fn read_hub(hub: &Hub, source: &HubSource, files: &[String]) -> Result<Heads, FactsError> {
    let names = hub.files(source, files).await?;
    let is_needed = |name: &&String| is_weights(name) || SMALL_FILES.contains(&name.as_str());
    let heads = Heads::new().map_err(FactsError::Temporary)?;
    // Collected: as a lazy iterator it could not be sent to another thread.
    let reads: Vec<_> =
        names.iter().filter(is_needed).map(|name| lay(hub, hub.file(source, name), name, &heads)).collect();
    stream::iter(reads).buffer_unordered(PARALLEL).try_collect::<()>().await?;
    Ok(heads)
}

/// Reads the head of one file at an address.
///
/// # Errors
/// As [`read_hub`]; [`FactsError::NotWeights`] if it is neither GGUF nor safetensors.
pub(crate) async fn read_url(hub: &Hub, url: &str) -> Result<Heads, FactsError> {
    let file = hub.url(url)?;
    let path = url.split(['?', '#']).next().unwrap_or(url);
    let name = path.rsplit('/').next().unwrap_or_default();
    if !name.ends_with(".gguf") || check_file_name(name).is_err() {
        return Err(FactsError::NotWeights { url: path.to_owned() });
    }
    let heads = Heads::new().map_err(FactsError::Temporary)?;
    lay(hub, file, name, &heads).await?;
    Ok(heads)
}

fn is_weights(name: &str) -> bool {
    name.ends_with(".safetensors") || name.ends_with(".gguf")
}

async fn lay(hub: &Hub, file: RemoteFile, name: &str, heads: &Heads) -> Result<(), FactsError> {
    let (bytes, total_bytes) = if name.ends_with(".gguf") {
        gguf_head(hub, &file, name).await?
    } else if name.ends_with(".safetensors") {
        safetensors_head(hub, &file, name).await?
    } else {
        let bytes = hub.read_small(&file, MAX_JSON_BYTES).await?;
        let total_bytes = bytes.len() as u64;
        (bytes, total_bytes)
    };
    // A file in a folder of the repository was asked for by name; here it is alone.
    let name = name.rsplit('/').next().unwrap_or(name);
    heads.lay(name, &bytes, total_bytes).map(drop).map_err(FactsError::Temporary)
}

async fn safetensors_head(hub: &Hub, file: &RemoteFile, name: &str) -> Result<(Vec<u8>, u64), FactsError> {
    let first = hub.read_range(file, 0..FIRST_SAFETENSORS_BYTES).await?;
    let (mut bytes, total_bytes) = (first.bytes, first.total_bytes);
    let Some(length) = bytes.first_chunk::<8>().map(|length| u64::from_le_bytes(*length)) else {
        let problem = format!("it has {total_bytes} bytes, which is no safetensors file");
        return Err(FactsError::Head { file: name.to_owned(), problem });
    };
    let end = length.saturating_add(8);
    if length > MAX_SAFETENSORS_BYTES || end > total_bytes {
        let problem = format!("its head would have {length} bytes, of {total_bytes} of the file");
        return Err(FactsError::Head { file: name.to_owned(), problem });
    }
    if end > bytes.len() as u64 {
        let rest = hub.read_range(file, bytes.len() as u64..end).await?;
        bytes.extend(rest.bytes);
    }
    bytes.truncate(end as usize);
    Ok((bytes, total_bytes))
}

/// Until the runtime's reader finds all that it looks for.
async fn gguf_head(hub: &Hub, file: &RemoteFile, name: &str) -> Result<(Vec<u8>, u64), FactsError> {
    let first = hub.read_range(file, 0..FIRST_GGUF_BYTES).await?;
    let mut beginning = Beginning::new(first.bytes, first.total_bytes);
    loop {
        let result = GgufHeader::read_stored(&beginning);
        let have = beginning.bytes.len() as u64;
        match (result, beginning.lacks()) {
            (Ok(_), _) | (Err(_), None) => return Ok((beginning.bytes, beginning.total_bytes)),
            (Err(_), Some(_)) if have >= MAX_GGUF_BYTES => {
                let problem = format!("its head does not end within {MAX_GGUF_BYTES} bytes");
                return Err(FactsError::Head { file: name.to_owned(), problem });
            }
            (Err(_), Some(wanted)) => {
                let end = wanted.max(have * GGUF_GROWTH).min(MAX_GGUF_BYTES).min(beginning.total_bytes);
                let more = hub.read_range(file, have..end).await?;
                let mut bytes = beginning.bytes;
                bytes.extend(more.bytes);
                beginning = Beginning::new(bytes, beginning.total_bytes);
            }
        }
    }
}
