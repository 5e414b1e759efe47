//! The first LocalModel of a file, as what is asked.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use kindling_agent::cache::Cache;
use kindling_agent::source::HubSource;
use kindling_envelope::Pool;
use kindling_facts::ModelSource;
use kindling_runtime::Remainder;

use super::source::{Source, of_hub};
use super::{Args, Wanted};
use crate::runtime::RemainderArg;
use crate::{device, local_models};

/// Source and serving of a LocalModel; what the command line names goes before what the file says.
///
/// # Errors
/// Names the file, and what is wrong in it.
pub fn read(file: &Path, args: &Args, cache: &Cache) -> anyhow::Result<(Source, Wanted)> {
    let models = local_models::read(file)?;
    let model = models.first().with_context(|| format!("{} holds no LocalModel", file.display()))?;
    let (source, serving) = (&model.spec.source, &model.spec.serving);
    let source = match (&source.hf, &source.host_path) {
        (Some(hf), _) => of_hub(HubSource::new(&hf.repo, &hf.revision)?, &hf.files, cache)?,
        (None, Some(host_path)) => {
            let place = ModelSource::Path(PathBuf::from(&host_path.path));
            Source { place, name: host_path.path.clone() }
        }
        (None, None) => bail!("{}: spec.source names no source", file.display()),
    };
    let asked = Wanted::of(args);
    let wanted = Wanted {
        context: asked.context.or(serving.context_length.map(u64::from)),
        concurrency: asked.concurrency.or(Some(u64::from(serving.max_concurrency))),
        pool: asked.pool.or(serving.kv_cache.tokens.map(|tokens| Pool::Tokens(tokens.into()))),
        max_batched_tokens: match (args.max_batched_tokens, serving.max_batched_tokens) {
            (None, Some(tokens)) => tokens.into(),
            _ => asked.max_batched_tokens,
        },
        remainder: match args.weights_remainder {
            RemainderArg::Keep => device::remainder(model.spec.weights.remainder),
            RemainderArg::Fp8 => Remainder::Fp8,
        },
        device: asked.device.or(device::asked(model.spec.placement.device)),
        ..asked
    };
    Ok((source, wanted))
}
