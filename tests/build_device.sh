#!/bin/sh
# SPDX-License-Identifier: MIT
# sh tests/build_device.sh [FOLDER]: tests and benchmarks for a machine that has a GPU and its driver and nothing else: beside
# the programs lie Boost, the C++ library and the CUDA runtime. Copy FOLDER (default build/device) there and `sh run.sh`
# in it: a line per suite, a summary, and exit status 77 without a device. ARCHITECTURES: as CMAKE_CUDA_ARCHITECTURES,
# default 90a. JOBS: how many at once.
set -eu
source=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:-$source/build/device}
work=$source/build/device-build
JOBS=${JOBS:-$(nproc 2>/dev/null || echo 2)}
limit_mib=60

cmake -S "$source" -B "$work" -G Ninja -DCMAKE_BUILD_TYPE=Release -DMODULEFORMER_CUDA=ON -DMODULEFORMER_SELF_CONTAINED=ON \
  -DMODULEFORMER_NATIVE=OFF -DCMAKE_CUDA_ARCHITECTURES="${ARCHITECTURES:-90a}"
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

# Libraries that a program finds beside it, under the names that it asks for.
cp "$work"/libmoduleformer_cuda_instances.so "$folder"
runtime=$(readlink -f "$(sed -n 's/^CUDA_CUDART:[A-Z]*=//p' "$work/CMakeCache.txt")")
LD_LIBRARY_PATH="$folder:$(dirname "$runtime")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" ldd "$folder"/test_* |
  awk '$1 ~ /^lib(boost|stdc\+\+|gcc_s|cudart)/ && $3 ~ /^\// { print $3 }' | sort -u | while read -r library; do
  cp -L "$library" "$folder"
done
missing=$(ldd "$folder"/test_* "$folder"/bench_* "$folder/quickstart_cuda" | sed -n 's/ => not found//p' | sort -u)
if [ -n "$missing" ]; then
  echo "build_device: libraries are missing:" $missing >&2
  exit 1
fi

mib=$(du -sm "$folder" | cut -f1)
glibc=$(objdump -T "$folder"/test_* "$folder"/*.so* | sed -n 's/.*GLIBC_\([0-9.]*\).*/\1/p' | sort -Vu | tail -1)
cuda=$("$(sed -n 's/^MODULEFORMER_NVCC:[A-Z]*=//p' "$work/CMakeCache.txt")" --version | sed -n 's/.*release \([0-9.]*\),.*/\1/p')
echo "$folder: $mib MiB; runs with glibc $glibc or later and a driver for CUDA $cuda"
if [ "$mib" -gt "$limit_mib" ]; then
  echo "build_device: expected at most $limit_mib MiB" >&2
  exit 1
fi
