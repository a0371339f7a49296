// SPDX-License-Identifier: MIT
// bench_routing_policies: one model, the same text and seeds, under each routing policy. Prints and writes a table of quality,
// balance, specialisation and speed; every (policy, seed) is a cell that is made once and can be stopped.

#include "cells/missing.hpp"
#include "routing/observation_cost.hpp"
#include "routing/report.hpp"
#include "routing/training.hpp"

#include <moduleformer/backend/cpu/build_info.hpp>

#include <algorithm>
#include <cctype>

namespace {

using namespace bench;

void list_policies() {
  for (Variant const& v : variants) fmt::print("{:<16} {}\n", v.name, v.what);
}

/// Makes what is missing.
void run_cells(RoutingOptions const& o) {
  check_held_out(o.domains, o.texts(o.seeds.front()));
  make_missing<CellResult>(
      o, cells(o), fmt::format("{} steps of {} tokens", o.steps(), o.tokens_per_step()),
      [&](Cell const& cell) { return CellRun(o, cell).run(); },
      [&](Cell const& cell) { return CellRun(o, cell).estimate_seconds(); });
}

void write_report(RoutingOptions const& o) {
  Maker maker;
  auto const all = collect(o, maker);
  mf::expects(!all.empty(), o.out.string(), ": no cell of these settings is done");
  auto const rows = table_cells(all);
  fmt::print("\n{}", plain_table(rows));
  if (std::ranges::any_of(all, [](PolicyResults const& p) { return p.variant->name == "expert-choice"; }))
    fmt::print("expert-choice: experts chose tokens in training; evaluated by each token's top-k, as every other policy.\n");
  if (maker.sources != MODULEFORMER_SOURCES) fmt::print("Of commit {}, sources {}.\n", maker.commit, maker.sources);
  mf::write_file(o.out / "table.md", markdown_tables(rows));
  mf::write_file(o.out / "results.csv", csv_table(all));
  nlohmann::json json{{"identity", "sources " + maker.sources + "; " + o.settings()},
                      {"commit", maker.commit},
                      {"build", mf::build_info()},
                      {"cells", nlohmann::json::array()}};
  for (PolicyResults const& p : all) {
    for (CellResult const& r : p.seeds) json["cells"].push_back(r);
    json["policies"][p.variant->name] = p.variant->what;
    if (p.speed) json["speed"].push_back(*p.speed);
  }
  mf::write_file(o.out / "results.json", json.dump(1) + "\n");
  auto const draw = [&](std::string name, std::string const& svg) {
    std::ranges::replace_if(name, [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0; }, '-');
    mf::write_file(o.out / (name + ".svg"), mf::standing_alone(svg));
  };
  for (Column const& c : columns) draw(c.name, mf::to_svg(dots(all, c)));
  draw("curves", mf::to_svg(curves(all, "Held-out text while training", "bits per byte", &Moment::bits_per_byte)));
  draw("effective while training", mf::to_svg(curves(all, "Effective feed-forward experts while training", "experts",
                                                     &Moment::effective_feed_forward)));
  fmt::print("written: table.md, results.csv, results.json and pictures in {}\n", o.out.string());
}

/// What each policy costs: routers, and experts under even load and under a trained model's.
void run_speed(RoutingOptions const& o) {
  fmt::print("Milliseconds: of one block, forward and backward, and of a training step; {} tokens\n{:<16} {:>9}",
             o.tokens_per_step(), "policy", "routers");
  for (Load const load : {Load::even, Load::skewed})
    fmt::print(" {:>18} {:>20}", fmt::format("attention, {}", load_name(load)),
               fmt::format("feed-forward, {}", load_name(load)));
  fmt::print(" {:>9}\n", "step");
  constexpr int rounds = 5;
  std::vector<std::vector<SpeedResult>> measured(o.policies.size());
  for (int round = 0; round < rounds; ++round)
    for (std::size_t i = 0; i < o.policies.size(); ++i)
      measured[i].push_back(measure_speed(o, find_variant(o.policies[i])));
  for (std::size_t i = 0; i < o.policies.size(); ++i) {
    std::string const& name = o.policies[i];
    SpeedResult const r = median_of(measured[i]);
    write_result(o.settings(), speed_file(o, find_variant(name)), r);
    fmt::print("{:<16} {:>9.3f} {:>18.2f} {:>20.2f} {:>18.2f} {:>20.2f} {:>9.1f}\n", name, 1e3 * r.even.routers,
               1e3 * r.even.attention, 1e3 * r.even.feed_forward, 1e3 * r.skewed.attention, 1e3 * r.skewed.feed_forward,
               1e3 * r.step);
  }
  ObservationCost const cost = measure_observation(o, 15);
  write_result(o.settings(), observation_file(o), cost);
  fmt::print("Observing routers, of a step: {:+.1f} % for their load, {:+.1f} % for everything of every token\n",
             cost.load_percent(), cost.all_percent());
}

}  // namespace

int main(int argc, char** argv) try {
  RoutingOptions const o = parse_routing_options(argc, argv);
  if (o.list) return list_policies(), 0;
  std::filesystem::create_directories(o.out);
  if (o.speed_only) return run_speed(o), 0;
  if (!o.report_only) run_cells(o);
  write_report(o);
} catch (std::exception const& error) {
  fmt::print(stderr, "bench_routing_policies: {}\n", error.what());
  return 1;
}
