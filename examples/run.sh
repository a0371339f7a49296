#!/bin/sh
# SPDX-License-Identifier: MIT
# sh examples/run.sh [TEXT...]: installs what is missing (Debian), builds the command-line program, trains a small
# ModuleFormer on the texts (with none: this repository's sources and documents and the system's licence
# texts), compares it with a unigram and a trigram model, draws how its routers spread the tokens, and
# generates a passage. Results stand in build/main_job. THREADS, STEPS: the job's size.
set -eu
given=$PWD
cd "$(dirname "$0")/.."
JOBS=${JOBS:-$(nproc 2>/dev/null || echo 2)}
# Threads that wait give their core away: on a busy machine spinning ones would wait for each other.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"
begin=$(date +%s)
seconds() { echo "$(($(date +%s) - begin)) s: $1"; }

sh cmake/setup.sh
cmake --preset release
cmake --build --preset release -j "$JOBS" --target moduleformer_program
seconds "built"

program=build/release/bin/moduleformer
job=build/main_job
mkdir -p "$job"

if [ $# -gt 0 ]; then
  # Names of texts are relative to the folder where the script was called.
  for text; do
    shift
    case $text in
      /*) set -- "$@" "$text" ;;
      *) set -- "$@" "$given/$text" ;;
    esac
  done
  prompt=$(head -c 40 "$1" | tr '\0\n' '  ')
else
  newline='
'
  IFS=$newline
  # shellcheck disable=SC2046
  set -- $(
    find README.md CHANGELOG.md docs include examples benchmarks tests cmake -type f -size +0 \
      \( -name '*.hpp' -o -name '*.cpp' -o -name '*.md' -o -name '*.py' -o -name '*.sh' -o -name '*.cmake' \) | LC_ALL=C sort
    find /usr/share/common-licenses -type f -size +0 2>/dev/null | LC_ALL=C sort
  )
  unset IFS
  prompt='You may not '
fi
bytes=$(cat "$@" | wc -c)
echo "$# texts, $bytes bytes"

# Steps of 2048 tokens: about two minutes on two cores, but at most some seventeen times through a short text.
steps=$((bytes * 17 / 2048))
[ "$steps" -ge 60 ] || steps=60
[ "$steps" -le 900 ] || steps=900
dropout=0
[ "$bytes" -ge 400000 ] || dropout=0.1

"$program" train --data "$@" --out "$job/model" --overwrite --threads "${THREADS:-0}" --no-eval --eos \
  --held-out 0.1 --hidden 128 --layers 4 --router-hidden 64 --attention-experts 8 --heads 4 --attention-hidden 128 \
  --ffn-experts 16 --ffn-hidden 256 --rows 8 --window 256 --steps "${STEPS:-$steps}" --rate 4e-3 --floor 0.05 \
  --residual-dropout "$dropout"
seconds "trained"

printf '\n==== held-out text, a tenth of each document\n'
"$program" eval --model "$job/model" --data "$@" --held-out 0.1 --threads "${THREADS:-0}" --svg "$job/routers.svg" >"$job/eval.txt"
cat "$job/eval.txt"
echo "drawn in $job/routers.svg"

printf '\n==== the model\n'
"$program" inspect --model "$job/model"

printf '\n==== a passage\n'
"$program" generate --model "$job/model" --prompt="$prompt" --max-new-tokens 400 --temperature 0.8 --seed 1

printf '\n'
awk '$1 == "model" { model = $2 } $1 == "trigram" { trigram = $3 }
  END { printf "The model needs %.3f bits per byte, the trigram model %.3f.\n", model, trigram; exit !(model < trigram) }' \
  "$job/eval.txt" || echo "The model did not get below the trigram model: more text or more steps (STEPS) may help."
seconds "done; the model is in $job/model"
