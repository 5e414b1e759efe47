#!/bin/sh
# What `cargo xtask gpu` built, on a machine with a GPU: every test, then the timings, and at the end a table.
# A test that has no GPU fails. `GPU_CHECK_ONLY=tests` leaves the timings out.
root=$(cd "$(dirname "$0")/../../.." && pwd)
export KINDLING_REQUIRE_GPU=1 KINDLING_RUNTIME_FOLDER="$root/runtime" RUST_BACKTRACE=0
nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,clocks.max.mem,memory.total --format=csv
logs=$(mktemp -d)
failed=0
for test in self_test graphs linear linear_fp4 paged_attention small_ops recurrent tiny_models sample_model; do
    if (cd "$root/runtime/cuda" && "$root/target/gpu/$test" --show-output) >"$logs/$test" 2>&1; then
        echo passed >"$logs/$test.result"
    else
        echo FAILED >"$logs/$test.result"
        failed=1
        # The first failures say most.
        grep -n -A 6 'panicked at' "$logs/$test" | head -60
        tail -3 "$logs/$test"
    fi
done
if [ "$GPU_CHECK_ONLY" != tests ]; then
    "$root/target/gpu/gpu_bench" || failed=1
fi
echo
for test in self_test graphs linear linear_fp4 paged_attention small_ops recurrent tiny_models sample_model; do
    printf '%-16s %s %s, largest error %s\n' "$test" "$(cat "$logs/$test.result")" \
        "$(grep -o 'test result: .*ignored' "$logs/$test" | sed 's/test result: //')" \
        "$(grep -o 'error [0-9.]*e-*[0-9]*' "$logs/$test" | sed 's/error //' | sort -g | tail -1)"
    grep SKIPPED "$logs/$test"
done
rm -r "$logs"
exit $failed
