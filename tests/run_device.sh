#!/bin/sh
# SPDX-License-Identifier: MIT
# sh run.sh [bench]: runs every test program of this folder and prints a line for each and a summary; exits with 77 where
# there is no device, 1 if anything failed. What they print is in logs/. With `bench`, the benchmarks run afterwards and
# leave a page of results here. (tests/build_device.sh makes the folder.)
cd "$(dirname "$0")" || exit 1
mkdir -p logs
passed=0
failed=0
skipped=0
cases=0
for program in ./test_*_device; do
  name=${program#./test_}
  log=logs/$name.log
  begin=$(date +%s)
  "$program" >"$log" 2>&1
  status=$?
  seconds=$(($(date +%s) - begin))
  count=$(sed -n 's/^Running \([0-9]*\) test case.*/\1/p' "$log")
  case $status in
    0) word=passed passed=$((passed + 1)) cases=$((cases + ${count:-0})) ;;
    77) word=skipped skipped=$((skipped + 1)) ;;
    *) word=FAILED failed=$((failed + 1)) cases=$((cases + ${count:-0})) ;;
  esac
  printf '%-8s %4d cases %5d s  %s\n' "$word" "${count:-0}" "$seconds" "$name"
  if [ "$word" = FAILED ]; then
    grep -E 'error|Error|terminate|signal' "$log" | head -5 | sed 's/^/    /'
  fi
done
if [ "$passed$failed" = 00 ]; then
  echo "no CUDA device: $skipped suites were skipped ($(sed -n 's/^skipped: //p' "$log" | head -1))"
  exit 77
fi
if ./quickstart_cuda text.txt logs/quickstart-model >logs/quickstart.log 2>&1; then
  passed=$((passed + 1))
else
  failed=$((failed + 1))
  echo "FAILED   quickstart_cuda: see logs/quickstart.log"
fi
echo "$passed suites passed, $failed failed, $skipped were skipped; $cases cases on a device; commit $(cat commit)"
if [ "${1-}" = bench ]; then
  sh bench.sh . || failed=$((failed + 1))
fi
[ "$failed" -eq 0 ]
