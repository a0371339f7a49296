#!/bin/sh
# SPDX-License-Identifier: MIT
# sh tests/run.sh [--full]: installs what is missing (Debian), configures, builds, runs every test, and
# prints the seconds of each part; the last line is ctest's summary. --full adds clang 16 and the address,
# undefined-behaviour and thread sanitizers. JOBS: how many at once.
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
  return $status
}

# preset NAME: configure, build, test.
preset() {
  part "$1: configure" cmake --preset "$1" || return
  part "$1: build" cmake --build --preset "$1" -j "$JOBS" || return
  part "$1: tests" run_tests "$1"
}

part setup sh cmake/setup.sh $full
preset release
if [ -n "$full" ]; then
  preset clang
  preset asan
  preset tsan
fi

printf '\n==== seconds%s\n' "$times"
if [ -n "$failed" ]; then
  printf '\n==== FAILED%s\n' "$failed"
fi
printf '%s\n' "${summary:-No tests were run}"
[ -z "$failed" ]
