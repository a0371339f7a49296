// SPDX-License-Identifier: MIT
#pragma once
// Options of the benchmark of the paper's claims: sizes, texts, lengths. All but the folder, the threads and the choice of cells
// decide a cell's result; settings() names those.

#include "cells/texts.hpp"
#include "claims/recipes.hpp"

#include <CLI/CLI.hpp>
#include <fmt/core.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace bench {

struct ClaimOptions {
  std::vector<std::string> recipes, data;
  std::string learnt, task;
  std::vector<std::uint64_t> seeds{1, 2, 3};
  std::filesystem::path out = "build/paper_claims";
  Index tokens = 1'000'000, tune_tokens = 300'000, rows = 8, window = 256, hidden = 128, layers = 4, heads = 2, router_hidden = 64;
  Index attention_experts = 16, attention_hidden = 64, ffn_experts = 32, ffn_hidden = 128, top_k = 2;
  Index new_attention = 4, new_ffn = 8;
  double rate = 4e-3, tune_rate = 1e-3, held_out = 0.02, save_every = 60;
  double learnt_bits = 3.6;
  int threads = 0;
  bool list = false, report_only = false, speed_only = false;
  std::string measured{};  // a folder: only time what its model does

  std::vector<Domain> domains{};

  /// Of the modular model.
  [[nodiscard]] mf::Config config() const {
    mf::Config c;
    c.vocab_size = 256;
    c.hidden_size = hidden;
    c.layers = layers;
    c.router_hidden_size = router_hidden;
    c.attention = {attention_experts, top_k, heads, attention_hidden};
    c.feed_forward = {ffn_experts, top_k, ffn_hidden};
    return c;
  }
  /// Those it is trained on first: all but the one that is learnt later.
  [[nodiscard]] std::vector<Domain> old_domains() const {
    std::vector<Domain> old;
    for (Domain const& d : domains)
      if (d.name != learnt) old.push_back(d);
    return old;
  }
  [[nodiscard]] std::vector<Domain> domain(std::string const& name) const {
    return {*std::ranges::find(domains, name, &Domain::name)};
  }
  [[nodiscard]] Index tokens_per_step() const { return rows * window; }
  [[nodiscard]] Index steps_of(Index count) const { return std::max(Index{1}, count / tokens_per_step()); }
  /// A step of `rows` rows over all of these.
  [[nodiscard]] MixedTexts texts(std::vector<Domain> const& of, Index steps, std::uint64_t seed) const {
    return {of, {.rows = std::max(Index{1}, rows / static_cast<Index>(of.size())), .tokens = window, .steps = steps, .seed = seed, .held_out = held_out}};
  }

  /// Everything that a cell's result depends on, beside its recipe, its seed and the sources.
  [[nodiscard]] std::string settings() const {
    return fmt::format(
        "tokens {} then {} rows {} window {} hidden {} layers {} heads {} router {} experts {}/{} widths {}/{} k {} new {}/{} rate {} "
        "then {} held-out {} learnt {} task {}{}",
        tokens, tune_tokens, rows, window, hidden, layers, heads, router_hidden, attention_experts, ffn_experts, attention_hidden,
        ffn_hidden, top_k, new_attention, new_ffn, rate, tune_rate, held_out, learnt, task, fingerprints(domains));
  }
};

inline ClaimOptions parse_claim_options(int argc, char** argv) {
  ClaimOptions o;
  CLI::App app{"Tries the claims of the ModuleFormer paper (arXiv 2306.04640) at a size that this machine trains: efficiency, extendability,\n"
               "specialisation. Cells (recipe, seed) that are done are skipped, one that was stopped goes on where it was saved."};
  app.add_option("--recipes", o.recipes, "names, of all by default; see --list")->delimiter(',');
  app.add_option("--data", o.data, "a domain of text: NAME=FILE; routing_texts.sh makes three");
  app.add_option("--learn", o.learnt, "the domain that is learnt after the others; the last by default");
  app.add_option("--task", o.task, "the domain that is specialised on; the last of the others by default");
  app.add_option("--seeds", o.seeds, "a cell for each")->delimiter(',')->capture_default_str();
  app.add_option("--out", o.out, "folder of results, models and runs that were stopped")->capture_default_str();
  auto const size = [&](char const* name, Index& value, char const* what) {
    app.add_option(name, value, what)->capture_default_str()->check(CLI::PositiveNumber);
  };
  size("--tokens", o.tokens, "of the first training");
  size("--tune-tokens", o.tune_tokens, "of learning a domain, and of specialising");
  size("--rows", o.rows, "of a step, divided among its domains");
  size("--window", o.window, "tokens of a row");
  size("--hidden", o.hidden, "hidden size");
  size("--layers", o.layers, "blocks");
  size("--heads", o.heads, "of an attention expert");
  size("--router-hidden", o.router_hidden, "hidden size of routers");
  size("--attention-experts", o.attention_experts, "of a block");
  size("--attention-hidden", o.attention_hidden, "hidden size of an attention expert");
  size("--ffn-experts", o.ffn_experts, "of a block");
  size("--ffn-hidden", o.ffn_hidden, "width of a feed-forward expert");
  size("--top-k", o.top_k, "experts chosen for a token");
  size("--new-attention", o.new_attention, "attention experts inserted in a block");
  size("--new-ffn", o.new_ffn, "feed-forward experts inserted in a block");
  app.add_option("--rate", o.rate, "learning rate of the first training, down a cosine to 0.05 of it")->capture_default_str();
  app.add_option("--tune-rate", o.tune_rate, "of learning and specialising, the same way")->capture_default_str();
  app.add_option("--held-out", o.held_out, "fraction of each text, its end")->capture_default_str();
  app.add_option("--save-every", o.save_every, "seconds of training between two saves of a cell's run")->capture_default_str();
  app.add_option("--learnt-bits", o.learnt_bits, "in the report, bits per byte of the learnt domain at which ways of learning are compared")
      ->capture_default_str();
  app.add_option("--threads", o.threads, "0 for all")->capture_default_str();
  app.add_flag("--list", o.list, "list the recipes and end");
  app.add_flag("--report", o.report_only, "only make the report of what is done");
  app.add_flag("--speed", o.speed_only, "time the models of the first seed, on a quiet machine: forward, decoding, loading, memory");
  app.add_option("--measure", o.measured,
                 "time the model of this folder on the first domain's held-out text and print JSON; --speed does so in "
                 "processes of its own");
  try {
    app.parse(argc, argv);
  } catch (CLI::ParseError const& error) {
    int const status = app.exit(error);
    std::exit(status == 0 ? 0 : 2);
  }
  if (o.recipes.empty())
    for (Recipe const& r : recipes) o.recipes.emplace_back(r.name);
  for (auto const& name : o.recipes) (void)find_recipe(name);
  o.domains = parse_domains(o.data);
  auto const expect_once = [](auto values, char const* option) {
    std::ranges::sort(values);
    auto const twice = std::ranges::adjacent_find(values);
    if (twice != values.end()) mf::fail<mf::Error>(option, ": ", *twice, " is given twice");
  };
  expect_once(o.recipes, "--recipes");
  expect_once(o.seeds, "--seeds");
  for (auto const& [option, rate] : {std::pair{"--rate", o.rate}, {"--tune-rate", o.tune_rate}})
    mf::expects(rate > 0 && rate < 1, option, ": expected a rate between 0 and 1, found ", rate);
  mf::expects(o.save_every >= 0, "--save-every: expected seconds from 0, found ", o.save_every);
  mf::expects(o.learnt_bits > 0 && o.learnt_bits <= 8,
              "--learnt-bits: expected bits per byte above 0, at most 8, found ", o.learnt_bits);
  mf::expects(o.held_out > 0 && o.held_out < 1, "--held-out: expected a fraction between 0 and 1, found ", o.held_out);
  if (o.list) return o;
  mf::expects(o.measured.empty() || !o.domains.empty(),
              "--measure: expected --data NAME=FILE, text that the model reads");
  if (!o.measured.empty()) return o;
  mf::expects(o.domains.size() >= 2, "--data: expected at least two domains, NAME=FILE, found ", o.domains.size());
  if (o.learnt.empty()) o.learnt = o.domains.back().name;
  auto const old = o.old_domains();
  mf::expects(old.size() + 1 == o.domains.size(), "--learn: expected a domain of --data, found '", o.learnt, "'");
  if (o.task.empty()) o.task = old.back().name;
  mf::expects(std::ranges::find(old, o.task, &Domain::name) != old.end(), "--task: expected a domain of --data other than ", o.learnt,
              ", found '", o.task, "'");
  mf::expects(o.rows % static_cast<Index>(old.size()) == 0, "--rows: expected a multiple of ", old.size(), ", the domains of the first training, found ",
              o.rows);
  mf::expects(!o.seeds.empty(), "--seeds: expected at least one");
  return o;
}

}  // namespace bench
