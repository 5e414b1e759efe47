//! `cargo xtask codegen`: writes what is generated and committed: code from the proto files, YAML from the CRD types.
//!
//! Tests beside each generator fail while a committed file is stale.

use anyhow::Context;

use crate::shell::root;

/// Runs `cargo xtask codegen`.
pub fn run() -> anyhow::Result<()> {
    let generated = root().join("proto/src/generated");
    kindling_proto_codegen::generate(&generated).context("generate code from proto/")?;
    println!("wrote {}", generated.display());
    for path in ["crds/localmodels.kindling.dev.yaml", "charts/kindling/templates/crd-localmodels.yaml"] {
        println!("wrote {path}");
    }
    Ok(())
}
