//! The committed YAML is what the types generate. `KINDLING_REWRITE=1 cargo test -p kindling-api` rewrites it.

use std::path::Path;

#[test]
fn committed_crd_yaml_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(kindling_api::CRD_YAML_PATH);
    let expected = kindling_api::crd_yaml();
    if std::env::var_os("KINDLING_REWRITE").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == expected, "{} is not current: run `cargo xtask codegen`", path.display());
}
