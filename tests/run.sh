#!/bin/sh
# SPDX-License-Identifier: MIT
# sh tests/run.sh [--full]: installs what is missing (Debian), configures, builds, runs every test, and
# prints the seconds of each part, how many cases ran where, and last ctest's summary. --full adds clang 16, the address,
# undefined-behaviour and thread sanitizers, and CUDA where its toolkit is. JOBS: how many at once.
set -u
cd "$(dirname "$0")/.." || exit 1

full=
case "${1-}" in
  "") ;;
  --full) full=--full ;;
  *) echo "usage: sh tests/run.sh [--full]" >&2; exit 2 ;;
esac
JOBS=${JOBS:-$(nproc 2>/dev/null || echo 2)}

failed=
times=
summary=
cases_on_cpu=0
cases_emulated=0
cases_on_device=0
cases_without_device=0
# part NAME COMMAND...: runs it, keeps its seconds, and remembers a failure.
part() {
  name=$1
  shift
  printf '\n==== %s\n' "$name"
  begin=$(date +%s)
  "$@"
  status=$?
  times="$times
$(printf '%6d s  %s' $(($(date +%s) - begin)) "$name")"
  [ $status -eq 0 ] || failed="$failed
  $name"
  return $status
}

run_tests() {
  log=$PWD/build/$1.log
  rm -f "$log"
  # The address space of a program under the thread sanitizer must not be scattered too widely.
  calm=
  if [ "$1" = tsan ] && setarch "$(uname -m)" -R true 2>/dev/null; then
    calm="setarch $(uname -m) -R"
  fi
  $calm ctest --preset "$1" -j "$JOBS" --output-log "$log"
  status=$?
  line=$(grep 'tests passed' "$log" 2>/dev/null || echo 'No tests were run')
  if [ -z "$summary" ] || [ $status -ne 0 ]; then
    summary=$line
  fi
  case $1 in release | cuda) count_cases "build/$1/Testing/Temporary/LastTest.log" ;; esac
  return $status
}

# count_cases LOG: adds the cases that its test programs say they ran: those of <name>_device on a device, unless skipped,
# those of *_emulated and emulation_* on the emulated device, all others on the CPU.
count_cases() {
  counted=$(awk '
    function end_of_entry() {
      if (name ~ /_device$/) { if (skipped) without += cases; else device += cases }
      else if (name ~ /emulat/) emulated += cases
      else cpu += cases
      cases = 0; skipped = 0
    }
    /^[0-9]+\/[0-9]+ Test: / { end_of_entry(); name = $NF }
    /^Running [0-9]+ test cases?\.\.\./ { cases = $2 }
    /^skipped: no CUDA device/ { skipped = 1 }
    END { end_of_entry(); print cpu + 0, emulated + 0, device + 0, without + 0 }' "$1" 2>/dev/null || echo 0 0 0 0)
  set -- $counted
  cases_on_cpu=$((cases_on_cpu + $1))
  cases_emulated=$((cases_emulated + $2))
  cases_on_device=$((cases_on_device + $3))
  cases_without_device=$((cases_without_device + $4))
}

# preset NAME: configure, build, test.
preset() {
  part "$1: configure" cmake --preset "$1" || return
  part "$1: build" cmake --build --preset "$1" -j "$JOBS" || return
  part "$1: tests" run_tests "$1"
}

part setup sh cmake/setup.sh $full
preset release
cuda='CUDA was not compiled: --full does, where a toolkit is'
if [ -n "$full" ]; then
  if command -v nvcc >/dev/null 2>&1 || [ -x /usr/local/cuda/bin/nvcc ]; then
    preset cuda
    cuda="$cases_without_device more were compiled, and skipped without a device"
  else
    cuda='CUDA was not compiled: no toolkit'
  fi
  preset clang
  preset asan
  preset tsan
fi

printf '\n==== seconds%s\n' "$times"
if [ -n "$failed" ]; then
  printf '\n==== FAILED%s\n' "$failed"
fi
printf 'cases: %d on the CPU, %d emulated, %d on a device (%s)\n' \
  "$cases_on_cpu" "$cases_emulated" "$cases_on_device" "$cuda"
printf '%s\n' "${summary:-No tests were run}"
[ -z "$failed" ]
