// SPDX-License-Identifier: MIT
// bench_paper_claims: the three claims of arXiv 2306.04640 at a size that this machine trains. Modular and dense models are trained on
// some domains of text; then another is learnt, or one is specialised on and experts are pruned. Every (recipe, seed) is a cell that
// is made once and can be stopped.

#include "cells/missing.hpp"
#include "claims/training.hpp"

namespace {

using namespace bench;

void run_claims(ClaimOptions const& o) {
  make_missing<ClaimResult>(
      o, claim_cells(o), fmt::format("{} and then {} tokens", o.tokens, o.tune_tokens),
      [&](ClaimCell const& cell) { return ClaimRun(o, cell).run(); },
      [&](ClaimCell const& cell) { return ClaimRun(o, cell).estimate_seconds(); });
}

}  // namespace

int main(int argc, char** argv) try {
  ClaimOptions const o = parse_claim_options(argc, argv);
  if (o.list) {
    for (Recipe const& r : recipes) fmt::print("{:<20} {}{}{}\n", r.name, r.base, r.base.empty() ? "" : ": ", r.what);
    return 0;
  }
  std::filesystem::create_directories(o.out);
  if (!o.report_only) run_claims(o);
} catch (std::exception const& error) {
  fmt::print(stderr, "bench_paper_claims: {}\n", error.what());
  return 1;
}
