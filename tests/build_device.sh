#!/bin/sh
# SPDX-License-Identifier: MIT
# sh tests/build_device.sh [FOLDER]: tests and benchmarks for a machine that has a GPU and its driver, but no Boost, Eigen or
# JSON library. Copy FOLDER (default build/device) there and `sh run.sh` in it: a line per suite, a summary, and
# exit status 77 without a device. ARCHITECTURES: as CMAKE_CUDA_ARCHITECTURES, default 90. JOBS: how many at once.
set -eu
source=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:-$source/build/device}
work=$source/build/device-build
JOBS=${JOBS:-$(nproc 2>/dev/null || echo 2)}
limit_mib=60

cmake -S "$source" -B "$work" -G Ninja -DCMAKE_BUILD_TYPE=Release -DMODULEFORMER_CUDA=ON -DMODULEFORMER_SELF_CONTAINED=ON \
  -DMODULEFORMER_NATIVE=OFF -DCMAKE_CUDA_ARCHITECTURES="${ARCHITECTURES:-90}"
cmake --build "$work" -j "$JOBS" --target device_programs

rm -rf "$folder"
mkdir -p "$folder"
cp "$work"/tests/test_*_device "$work/bin/quickstart_cuda" "$folder"
for benchmark in "$source"/benchmarks/*.cu; do
  cp "$work/bin/bench_$(basename "$benchmark" .cu)" "$folder"
done
cp -R "$source/tests/golden" "$folder"
cp "$source/tests/run_device.sh" "$folder/run.sh"
cp "$source/benchmarks/cuda/run.sh" "$folder/bench.sh"
cp "$source/examples/quickstart_cuda.cu" "$folder/text.txt"  # what the quickstart learns
git -C "$source" describe --always --dirty --abbrev=40 >"$folder/commit" 2>/dev/null || echo unknown >"$folder/commit"

mib=$(du -sm "$folder" | cut -f1)
glibc=$(objdump -T "$folder"/test_* | sed -n 's/.*GLIBC_\([0-9.]*\).*/\1/p' | sort -Vu | tail -1)
cuda=$("$(sed -n 's/^MODULEFORMER_NVCC:[A-Z]*=//p' "$work/CMakeCache.txt")" --version | sed -n 's/.*release \([0-9.]*\),.*/\1/p')
echo "$folder: $mib MiB; runs with glibc $glibc or later and a driver for CUDA $cuda"
if [ "$mib" -gt "$limit_mib" ]; then
  echo "build_device: expected at most $limit_mib MiB" >&2
  exit 1
fi
