//! The committed code must be what the `.proto` files give.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic and print")]

use kindling_proto_codegen::{GENERATED_FILES, generate, generated_dir};

#[test]
fn generated_code_is_current() {
    let out_dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("codegen-{}", std::process::id()));
    std::fs::create_dir_all(&out_dir).unwrap();
    generate(&out_dir).unwrap();
    for name in GENERATED_FILES {
        let fresh = std::fs::read(out_dir.join(name)).unwrap();
        let committed = std::fs::read(generated_dir().join(name)).unwrap();
        assert!(fresh == committed, "{name} is stale: run `cargo xtask codegen`");
    }
    std::fs::remove_dir_all(&out_dir).unwrap();
}
