#!/bin/sh
# What `cargo xtask gpu` built, on a machine with a GPU: every test, then the timings, and at the end a table.
# A test that has no GPU fails. GPU_CHECK_ONLY takes a part:
#   tests, timings      one without the other
#   soak                mixed requests for KINDLING_SOAK_SECONDS (480)
#   memcheck, racecheck the tests of single kernels, every access looked at by NVIDIA's sanitizer
# GPU_CHECK_STAND_IN=1 tries this script where there is no GPU; GPU_BENCH_ARGUMENTS=--small then leaves it something to do.
root=$(cd "$(dirname "$0")/../../.." && pwd)
export KINDLING_RUNTIME_FOLDER="$root/runtime" RUST_BACKTRACE=0
part=${GPU_CHECK_ONLY:-all}
tests="self_test graphs linear linear_fp4 paged_attention small_ops recurrent tiny_models sample_model soak"
sanitizer=
case $part in
all | tests) ;;
timings) tests= ;;
soak)
    tests=soak
    export KINDLING_SOAK_SECONDS="${KINDLING_SOAK_SECONDS:-480}"
    ;;
memcheck | racecheck)
    tests="linear linear_fp4 paged_attention small_ops recurrent"
    sanitizer="compute-sanitizer --tool $part --error-exitcode 9"
    ;;
*)
    echo "GPU_CHECK_ONLY is tests, timings, soak, memcheck or racecheck, not $part" >&2
    exit 2
    ;;
esac
if [ -z "$GPU_CHECK_STAND_IN" ]; then
    export KINDLING_REQUIRE_GPU=1
    nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,clocks.max.mem,memory.total --format=csv
fi
logs=$(mktemp -d)
programs=$(mktemp -d)
trap 'rm -r "$logs" "$programs"' EXIT
tar -xzf "$root/target/gpu/programs.tar.gz" -C "$programs" || exit 2
failed=0
for test in $tests; do
    # The sanitizer is several words, or none.
    if (cd "$root/runtime/cuda" && ${sanitizer:+"$programs/sanitizer/"}$sanitizer "$programs/$test" --show-output) >"$logs/$test" 2>&1; then
        echo passed >"$logs/$test.result"
    else
        echo FAILED >"$logs/$test.result"
        failed=1
        # The first failures say most.
        grep -n -A 6 -e 'panicked at' -e '========= [A-Z]' "$logs/$test" | head -60
        tail -3 "$logs/$test"
    fi
done
if [ "$part" = all ] || [ "$part" = timings ]; then
    "$programs/gpu_bench" $GPU_BENCH_ARGUMENTS || failed=1
fi
echo
for test in $tests; do
    printf '%-16s %s %s, largest error %s\n' "$test" "$(cat "$logs/$test.result")" \
        "$(grep -o 'test result: .*ignored' "$logs/$test" | sed 's/test result: //')" \
        "$(grep -o 'error [0-9.]*e-*[0-9]*' "$logs/$test" | sed 's/error //' | sort -g | tail -1)"
    grep -e SKIPPED -e 'regions intact' -e 'ERROR SUMMARY' "$logs/$test"
done
exit $failed
