#!/bin/sh
# SPDX-License-Identifier: MIT
# sh benchmarks/cuda/run.sh [FOLDER [OUTPUT]]: runs every CUDA benchmark and writes OUTPUT/cuda-<device>-<date>.md (default:
# benchmarks/results/, else FOLDER). The programs are those of FOLDER; without it those of build/cuda, or else nvcc alone
# makes them (no CMake, no other library). Exits with 77 where there is no device. MODULEFORMER_COMMIT: the commit that
# the results name. QUICK=1: the model at 16k tokens only.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..
if [ $# -ge 1 ]; then
  folder=$1
elif [ -x "$here/bench_primitives" ]; then
  folder=$here
elif [ -x "$root/build/cuda/bin/bench_primitives" ]; then
  folder=$root/build/cuda/bin
else
  folder=$root/build/cuda-benchmarks
  mkdir -p "$folder"
  nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
  # Products of warpgroups are only in code for 9.0a.
  case $(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1) in
    9.0) target=-gencode=arch=compute_90a,code=sm_90a ;;
    *) target=-arch=native ;;
  esac
  for name in primitives model_cuda; do # minutes, at once
    "$nvcc" -std=c++20 --expt-relaxed-constexpr -O2 $target -I"$root/include" "$root/benchmarks/$name.cu" \
      -o "$folder/bench_$name" -ldl &
  done
  wait
fi
output=${2:-$folder}
if [ $# -lt 2 ] && [ -d "$here/../results" ]; then
  output=$here/../results
fi
if [ -z "${MODULEFORMER_COMMIT-}" ] && [ ! -f "$folder/commit" ] && git -C "$here" describe --always --dirty >/dev/null 2>&1; then
  MODULEFORMER_COMMIT=$(git -C "$here" describe --always --dirty)
  export MODULEFORMER_COMMIT
fi
if [ -z "${MODULEFORMER_COMMIT-}" ] && [ -f "$folder/commit" ]; then
  MODULEFORMER_COMMIT=$(cat "$folder/commit")
  export MODULEFORMER_COMMIT
fi
partial=$(mktemp)
trap 'rm -f "$partial"' EXIT

failed=0
run() { # title, program and arguments
  title=$1
  shift
  printf '\n## %s\n\n`%s`\n\n' "$title" "$(basename "$1") $(shift; echo "$@")" >>"$partial"
  status=0
  "$@" >>"$partial" || status=$?
  if [ "$status" -eq 77 ]; then
    tail -1 "$partial"
    exit 77
  fi
  if [ "$status" -ne 0 ]; then
    failed=1
    printf '\n**failed with status %s**\n' "$status" >>"$partial"
    echo "failed with status $status: $*" >&2
  fi
}

run Primitives "$folder/bench_primitives"
run "A small model, 40k tokens" "$folder/bench_model_cuda" --tokens 1024 --rows 40 --steps 10
run "MoLM-350M-4B, 16k tokens" "$folder/bench_model_cuda" --preset molm350m-4b --kernels
run "MoLM-350M-4B, 16k tokens, load of a trained model" "$folder/bench_model_cuda" --preset molm350m-4b --load skewed
if [ -z "${QUICK-}" ]; then
  run "MoLM-350M-4B, 64k tokens" "$folder/bench_model_cuda" --preset molm350m-4b-64k --steps 3
fi

device=$(sed -n 's/^- device: //p' "$partial" | head -1 | tr 'A-Z ' 'a-z-' | tr -cd 'a-z0-9-')
file=$output/cuda-$device-$(date -u +%Y-%m-%d).md
{
  printf '# CUDA benchmarks on %s\n\n' "$(sed -n 's/^- device: //p' "$partial" | head -1)"
  echo 'Medians; random data; times by device events, the second-level cache emptied before each call. Floors are those of the'
  echo 'very shape at the bandwidth (copy of 1 GiB) and the product rate (cuBLAS in bfloat16) measured in the same run. *Of dense'
  echo 'product*: against cuBLAS on a dense product of equal size, measured beside.'
  cat "$partial"
} >"$file"
echo "$file"
exit $failed
