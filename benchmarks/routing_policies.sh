#!/bin/sh
# SPDX-License-Identifier: MIT
# sh benchmarks/routing_policies.sh [OPTION...]: builds bench_routing_policies, fetches three domains of text (routing_texts.sh)
# and compares all routing policies on them. What is done already is kept: stopped, it goes on where it was. Options are
# those of bench_routing_policies; results stand in build/routing_policies unless --out says otherwise.
set -eu
cd "$(dirname "$0")/.."
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"
sh cmake/setup.sh
cmake --preset release
cmake --build --preset release -j "${JOBS:-$(nproc 2>/dev/null || echo 2)}" --target bench_routing_policies
texts=build/routing_texts
sh benchmarks/routing_texts.sh "$texts"
exec build/release/bin/bench_routing_policies --data "english=$texts/english.txt" --data "german=$texts/german.txt" \
  --data "python=$texts/python.txt" "$@"
