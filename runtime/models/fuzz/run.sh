#!/bin/sh
# Builds all fuzz targets with coverage and runs one: run.sh TARGET SECONDS. See README.md.
set -eu
target=$1
seconds=$2
# Another folder of targets may call this one.
cd "${FUZZ_FOLDER:-$(dirname "$0")}"
# What cargo-fuzz passes, without the address sanitizer: these parsers have no unsafe code (the few unsafe lines of
# toktrie walk the vocabulary, which is not fuzzed), and executions are several times faster.
coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
coverage="$coverage -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
coverage="$coverage -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
# A target triple keeps the flags away from build scripts and macros.
triple=$(rustc -vV | sed -n 's/^host: //p')
CARGO_TARGET_DIR="$PWD/target" RUSTFLAGS="$coverage --cfg fuzzing -Ccodegen-units=1" \
    cargo +nightly build --release --bins --target "$triple"
bin="$PWD/target/$triple/release"
# The seeds' maker has no dependencies and must not be instrumented: libFuzzer is not linked to it.
rustc --edition 2024 -o "$PWD/target/seeds" seeds.rs
"$PWD/target/seeds" "$PWD/corpus"
mkdir -p "artifacts/$target"
exec "$bin/$target" "corpus/$target" -artifact_prefix="artifacts/$target/" \
    -max_total_time="$seconds" -rss_limit_mb=1024 -timeout=10 -max_len="${FUZZ_MAX_LEN:-65536}" -print_final_stats=1
