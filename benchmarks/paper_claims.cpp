// SPDX-License-Identifier: MIT
// bench_paper_claims: the three claims of arXiv 2306.04640 at a size that this machine trains. Modular and dense models are trained on
// some domains of text; then another is learnt, or one is specialised on and experts are pruned. Every (recipe, seed) is a cell that
// is made once and can be stopped.

#include "cells/missing.hpp"
#include "claims/report.hpp"
#include "claims/speed.hpp"
#include "claims/training.hpp"

namespace {

using namespace bench;

void run_claims(ClaimOptions const& o) {
  check_held_out(o.domains, o.texts(o.domains, 1, o.seeds.front()));
  make_missing<ClaimResult>(
      o, claim_cells(o), fmt::format("{} and then {} tokens", o.tokens, o.tune_tokens),
      [&](ClaimCell const& cell) { return ClaimRun(o, cell).run(); },
      [&](ClaimCell const& cell) { return ClaimRun(o, cell).estimate_seconds(); });
}

void write_claims(ClaimOptions const& o) {
  ClaimReport const report(o);
  std::string text;
  auto const table = [&](std::string const& title, Rows const& rows, std::size_t numbers) {
    if (rows.size() > 1 && rows[0].size() > 1) text += "## " + title + "\n\n" + markdown_table(rows, numbers) + "\n";
  };
  table("Efficiency", report.efficiency(), 2);
  table("Extendability", report.extendability(), 2);
  table("Extendability at equal gain", report.lost_at_equal_gain(), 1);
  table("Specialisation: bits per byte of " + o.task + ", experts kept of all in the model", report.specialisation("model"), 1);
  table("Specialisation: bits per byte of " + o.task + ", experts kept of each router", report.specialisation("layer"), 1);
  table("Specialised models with fewer experts", report.pruned_speed(), 1);
  if (!report.timed_with().empty()) text += report.timed_with() + "\n";
  fmt::print("\n{}", text);
  if (report.maker().sources != MODULEFORMER_SOURCES) fmt::print("Of commit {}, sources {}.\n", report.maker().commit, report.maker().sources);
  mf::write_file(o.out / "tables.md", text);
  mf::write_file(o.out / "results.json", report.json().dump(1) + "\n");
  for (auto const& [name, plot] : {std::pair{"efficiency.svg", report.efficiency_plot()},
                                   {"extendability.svg", report.extendability_plot()},
                                   {"specialisation.svg", report.specialisation_plot()}})
    mf::write_file(o.out / name, mf::standing_alone(mf::to_svg(plot)));
  fmt::print("written: tables.md, results.json and pictures in {}\n", o.out.string());
}

}  // namespace

int main(int argc, char** argv) try {
  ClaimOptions const o = parse_claim_options(argc, argv);
  if (o.list) {
    for (Recipe const& r : recipes) fmt::print("{:<20} {}{}{}\n", r.name, r.base, r.base.empty() ? "" : ": ", r.what);
    return 0;
  }
  if (!o.measured.empty()) {
    fmt::print("{}\n", nlohmann::json(measure_model(o.measured, o)).dump());
    return 0;
  }
  std::filesystem::create_directories(o.out);
  if (o.speed_only) write_speeds(o);
  else if (!o.report_only) run_claims(o);
  write_claims(o);
} catch (std::exception const& error) {
  fmt::print(stderr, "bench_paper_claims: {}\n", error.what());
  return 1;
}
