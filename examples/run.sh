#!/bin/sh
# SPDX-License-Identifier: MIT
# sh examples/run.sh [TEXT...]: installs what is missing (Debian) and builds the command-line program.
set -eu
given=$PWD
cd "$(dirname "$0")/.."
JOBS=${JOBS:-$(nproc 2>/dev/null || echo 2)}

sh cmake/setup.sh
cmake --preset release
cmake --build --preset release -j "$JOBS" --target moduleformer_program

program=build/release/bin/moduleformer
# Names of texts are relative to the folder where the script was called: (cd "$given" && ...).
"$program" --help
