// SPDX-License-Identifier: MIT
#pragma once
// Options of the benchmark of routing policies: what is compared, on which texts, with which model. All but the folder, the
// threads and the choice of cells decide a cell's result; settings() names those.

#include "cells/domains.hpp"
#include "cells/texts.hpp"
#include "routing/variants.hpp"

#include <CLI/CLI.hpp>
#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

namespace bench {

struct RoutingOptions {
  std::vector<std::string> policies, data;
  std::vector<std::uint64_t> seeds{1, 2, 3};
  std::filesystem::path out = "build/routing_policies";
  Index tokens = 2'000'000, rows = 3, window = 256, hidden = 128, layers = 4, heads = 4, router_hidden = 64;
  Index attention_experts = 8, ffn_experts = 16, ffn_hidden = 256, top_k = 2;
  double rate = 4e-3, held_out = 0.02, save_every = 60;
  int threads = 0;
  bool list = false, report_only = false, speed_only = false;

  std::vector<Domain> domains{};

  [[nodiscard]] mf::Config config() const {
    mf::Config c;
    c.vocab_size = 256;
    c.hidden_size = hidden;
    c.layers = layers;
    c.router_hidden_size = router_hidden;
    c.attention = {attention_experts, top_k, heads, hidden};
    c.feed_forward = {ffn_experts, top_k, ffn_hidden};
    return c;
  }
  [[nodiscard]] Index tokens_per_step() const { return static_cast<Index>(domains.size()) * rows * window; }
  [[nodiscard]] Index steps() const { return std::max(Index{1}, tokens / tokens_per_step()); }
  [[nodiscard]] MixedTexts texts(std::uint64_t seed) const {
    return {domains, {.rows = rows, .tokens = window, .steps = steps(), .seed = seed, .held_out = held_out}};
  }

  /// Everything that a cell's result depends on, beside its policy, its seed and the sources.
  [[nodiscard]] std::string settings() const {
    return fmt::format(
        "tokens {} rows {} window {} hidden {} layers {} heads {} router {} experts {}/{} width {} k {} rate {} "
        "held-out {}{}",
        tokens, rows, window, hidden, layers, heads, router_hidden, attention_experts, ffn_experts, ffn_hidden, top_k,
        rate, held_out, fingerprints(domains));
  }
};

inline Variant const& find_variant(std::string_view name) {
  auto const found = std::ranges::find(variants, name, &Variant::name);
  if (found != variants.end()) return *found;
  std::string known;
  for (Variant const& v : variants) known += (known.empty() ? "" : ", ") + std::string(v.name);
  throw mf::Error(fmt::format("--policies: expected some of {}; found '{}'", known, name));
}

inline RoutingOptions parse_routing_options(int argc, char** argv) {
  RoutingOptions o;
  CLI::App app{"Trains one model under each routing policy and compares quality, balance, specialisation and speed.\n"
               "Cells (policy, seed) that are done are skipped, one that was stopped goes on where it was saved."};
  app.add_option("--policies", o.policies, "names, of all by default; see --list")->delimiter(',');
  app.add_option("--data", o.data, "a domain of text: NAME=FILE; routing_texts.sh makes three");
  app.add_option("--seeds", o.seeds, "a cell for each")->delimiter(',')->capture_default_str();
  app.add_option("--out", o.out, "folder of results and of runs that were stopped")->capture_default_str();
  auto const size = [&](char const* name, Index& value, char const* what) {
    app.add_option(name, value, what)->capture_default_str()->check(CLI::PositiveNumber);
  };
  size("--tokens", o.tokens, "that a cell trains on");
  size("--rows", o.rows, "of a step, from each domain");
  size("--window", o.window, "tokens of a row");
  size("--hidden", o.hidden, "hidden size");
  size("--layers", o.layers, "blocks");
  size("--heads", o.heads, "of an attention expert");
  size("--router-hidden", o.router_hidden, "hidden size of routers");
  size("--attention-experts", o.attention_experts, "of a block");
  size("--ffn-experts", o.ffn_experts, "of a block");
  size("--ffn-hidden", o.ffn_hidden, "width of a feed-forward expert");
  size("--top-k", o.top_k, "experts chosen for a token");
  app.add_option("--rate", o.rate, "learning rate, after warm-up, down a cosine to 0.05 of it")->capture_default_str();
  app.add_option("--held-out", o.held_out, "fraction of each text, its end")->capture_default_str();
  app.add_option("--save-every", o.save_every, "seconds of training between two saves of a cell's run")
      ->capture_default_str();
  app.add_option("--threads", o.threads, "0 for all")->capture_default_str();
  app.add_flag("--list", o.list, "list the policies and end");
  app.add_flag("--report", o.report_only, "only make the report of what is done");
  app.add_flag(
      "--speed", o.speed_only,
      "measure what the policies cost, on a quiet machine: routers, experts under even and skewed load, steps");
  try {
    app.parse(argc, argv);
  } catch (CLI::ParseError const& error) {
    int const status = app.exit(error);
    std::exit(status == 0 ? 0 : 2);
  }
  if (o.policies.empty())
    for (Variant const& v : variants) o.policies.emplace_back(v.name);
  for (auto const& name : o.policies) (void)find_variant(name);
  auto const expect_once = [](auto values, char const* option) {
    std::ranges::sort(values);
    auto const twice = std::ranges::adjacent_find(values);
    mf::expects(twice == values.end(), option, ": ", twice == values.end() ? values.front() : *twice,
                " is given twice");
  };
  expect_once(o.policies, "--policies");
  expect_once(o.seeds, "--seeds");
  mf::expects(!o.policies.empty() && !o.seeds.empty(), "expected at least one policy and one seed");
  mf::expects(o.held_out > 0 && o.held_out < 1, "--held-out: expected a fraction between 0 and 1, found ", o.held_out);
  o.domains = parse_domains(o.data);
  mf::expects(o.list || !o.domains.empty(), "--data: expected at least one domain, NAME=FILE");
  return o;
}

}  // namespace bench
