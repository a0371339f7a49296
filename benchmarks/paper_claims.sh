#!/bin/sh
# SPDX-License-Identifier: MIT
# sh benchmarks/paper_claims.sh [OPTION...]: builds bench_paper_claims, fetches three domains of text (routing_texts.sh) and tries the
# paper's claims on them: English and Python are trained on first, Python is specialised on, German is learnt. What is done already is
# kept: stopped, it goes on where it was. Options are those of bench_paper_claims; results stand in build/paper_claims unless --out says
# otherwise.
set -eu
cd "$(dirname "$0")/.."
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"
sh cmake/setup.sh
cmake --preset release
cmake --build --preset release -j "${JOBS:-$(nproc 2>/dev/null || echo 2)}" --target bench_paper_claims
texts=build/routing_texts
sh benchmarks/routing_texts.sh "$texts"
exec build/release/bin/bench_paper_claims --data "english=$texts/english.txt" --data "python=$texts/python.txt" \
  --data "german=$texts/german.txt" "$@"
