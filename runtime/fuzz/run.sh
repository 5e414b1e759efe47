#!/bin/sh
# Builds all fuzz targets of this folder with coverage and runs one: run.sh TARGET SECONDS. See README.md.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
FUZZ_FOLDER="$here" FUZZ_MAX_LEN=16384 exec "$here/../models/fuzz/run.sh" "$@"
