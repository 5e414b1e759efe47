//! Rewrites the committed code; `cargo xtask codegen` does the same.

fn main() -> Result<(), kindling_proto_codegen::CodegenError> {
    kindling_proto_codegen::generate(&kindling_proto_codegen::generated_dir())
}
