// SPDX-License-Identifier: MIT
#pragma once
// The results of the paper's claims as tables and pictures: means over seeds with the standard deviation of one seed;
// timings as medians over rounds with half of their range.

#include "cells/tables.hpp"
#include "claims/cell.hpp"
#include "claims/speed.hpp"

#include <moduleformer/io/svg.hpp>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

namespace bench {

using Rows = std::vector<std::vector<std::string>>;

class ClaimReport {
 public:
  /// Results of this program, or, for a report alone, those that one other program made.
  explicit ClaimReport(ClaimOptions const& o) : o_(o) {
    for (ClaimCell const& cell : claim_cells(o))
      if (auto made = read_result<ClaimResult>(cell.settings(o), cell.file(o));
          made && (o.report_only || made->by_this_program())) {
        maker_.expect_same(*made, o.out.string() + ": " + cell.name());
        results_[std::string(cell.recipe->name)].push_back(std::move(made->result));
      }
    mf::expects(!results_.empty(), o.out.string(), ": no cell of these settings is done");
    if (std::filesystem::exists(speed_file(o))) {
      auto made = read_result<Speeds>(o.settings(), speed_file(o));
      mf::expects(made.has_value(), speed_file(o).string(),
                  ": expected timings of these settings, found others; --speed makes them anew");
      maker_.expect_same(*made, speed_file(o).string());
      speeds_ = std::move(made->result);
    }
    for (std::size_t d = 0; d < o.domains.size(); ++d)
      (o.domains[d].name == o.learnt ? learnt_ : old_.emplace_back()) = d;
  }

  [[nodiscard]] Maker const& maker() const { return maker_; }
  /// What the timings were made with; empty if there are none.
  [[nodiscard]] std::string timed_with() const {
    return speeds_.models.empty()
               ? ""
               : fmt::format("Timings: models of seed {}, {}.", speeds_.seed, thread_text(speeds_.threads));
  }

  [[nodiscard]] Rows efficiency() const {
    Rows rows{{"model", "what it is", "seeds", "parameters", "active", "bits per byte", "less modular",
               "forward, tokens/s", "decode, batch 1", "batch 8", "memory, MB"}};
    for (Recipe const& recipe : recipes) {
      auto const* const all = of(recipe, Stage::first);
      if (all == nullptr) continue;
      auto& row = begin(rows, recipe, *all);
      row.push_back(fmt::format("{}", all->front().parameters));
      row.push_back(fmt::format("{}", all->front().active_parameters));
      row.push_back(mean(*all, [&](auto const& r) { return old_bits(r.after); }));
      std::vector<double> less;
      for (auto const& r : *all)
        if (auto const* const other = same_seed("modular", r.seed)) less.push_back(old_bits(r.after) - old_bits(other->after));
      row.push_back(less.empty() ? "" : with_deviation(mean_of(less), 3, less.size()));
      add_speed(row, find_speed(std::string(recipe.name), 1));
    }
    return rows;
  }

  [[nodiscard]] Rows extendability() const {
    std::string const old = o_.old_domains().size() == 1 ? o_.old_domains().front().name : "old domains";
    Rows rows{{"recipe", "what trains", "seeds", "parameters that train", o_.learnt + ", before", "after", "gained", old + ", before", "after",
               "lost", "routes as before", "slots of new experts"}};
    for (Recipe const& recipe : recipes) {
      auto const* const all = of(recipe, Stage::learn);
      if (all == nullptr) continue;
      auto& row = begin(rows, recipe, *all);
      row.push_back(fmt::format("{}", all->front().trained_parameters));
      row.push_back(mean(*all, [&](auto const& r) { return r.before[learnt_]; }));
      row.push_back(mean(*all, [&](auto const& r) { return r.after[learnt_]; }));
      row.push_back(mean(*all, [&](auto const& r) { return r.before[learnt_] - r.after[learnt_]; }));
      row.push_back(mean(*all, [&](auto const& r) { return old_bits(r.before); }));
      row.push_back(mean(*all, [&](auto const& r) { return old_bits(r.after); }));
      row.push_back(mean(*all, [&](auto const& r) { return lost_of(r); }));
      bool const routed = all->front().agreement >= 0;
      row.push_back(routed ? mean(*all, [](auto const& r) { return r.agreement; }) : "");
      row.push_back(routed && recipe.only_new ? mean(*all, [](auto const& r) { return r.new_share; }) : "");
    }
    return rows;
  }

  /// What each way of learning lost where the learnt domain has come to --learnt-bits: on the straight lines between a seed's
  /// points, of the seeds whose points lie on both sides.
  [[nodiscard]] Rows lost_at_equal_gain() const {
    Rows rows{{"trains", "seeds", fmt::format("lost at {} {}", o_.learnt, o_.learnt_bits)}};
    for (auto const& [name, ways] : ways_of_learning()) {
      std::vector<double> lost;
      for (auto const seed : o_.seeds) {
        std::vector<std::pair<double, double>> points;
        for (std::string const& recipe : ways)
          if (auto const* const r = same_seed(recipe, seed)) points.emplace_back(r->after[learnt_], lost_of(*r));
        std::ranges::sort(points);
        for (std::size_t i = 1; i < points.size(); ++i) {
          auto const [x0, y0] = points[i - 1];
          auto const [x1, y1] = points[i];
          if (x0 > o_.learnt_bits || o_.learnt_bits > x1) continue;
          lost.push_back(y0 + (y1 - y0) * (o_.learnt_bits - x0) / (x1 - x0));
          break;
        }
      }
      if (!lost.empty()) rows.push_back({name, std::to_string(lost.size()), with_deviation(mean_of(lost), 3, lost.size())});
    }
    return rows;
  }

  /// Bits per byte of the task by what stays; experts are chosen "model" wide or by "layer".
  [[nodiscard]] Rows specialisation(std::string const& by) const {
    Rows rows{{"kept"}};
    auto const all = specialised();
    for (auto const& [name, results] : all) rows[0].push_back(name), rows[0].emplace_back("experts, really");
    for (double const kept : kept_fractions) {
      auto& row = rows.emplace_back(std::vector<std::string>{fmt::format("{:.0f} %", 100 * kept)});
      for (auto const& [name, results] : all) {
        row.push_back(mean(*results, [&](auto const& r) { return pruned(r, by, kept).bits_per_byte; }));
        row.push_back(mean(*results, [&](auto const& r) { return 100 * pruned(r, by, kept).experts; }, 0) + " %");
      }
    }
    return rows;
  }

  [[nodiscard]] Rows pruned_speed() const {
    Rows rows{{"model", "kept", "parameters", "folder, MB", "load to first token, ms", "forward, tokens/s",
               "decode, batch 1", "batch 8", "memory, MB"}};
    for (ModelSpeed const& s : speeds_.models) {
      if (find_recipe(s.name).stage != Stage::specialise) continue;
      auto& row = rows.emplace_back(
          std::vector<std::string>{s.name, fmt::format("{:.0f} %", 100 * s.kept), fmt::format("{}", s.parameters),
                                   fmt::format("{:.1f}", s.file_megabytes), text_of(s.load_milliseconds, 1)});
      add_speed(row, &s);
    }
    return rows;
  }

  /// Held-out bits against the speed of a forward, or against active parameters where no speed was measured.
  [[nodiscard]] mf::LinePlot efficiency_plot() const {
    bool const timed = !speeds_.models.empty();
    mf::LinePlot plot{"Efficiency: held-out text of what was trained on", timed ? "thousand tokens/s, forward" : "million active parameters",
                      "bits per byte", {{"dense", {}, {}}, {"modular", {}, {}}}, true};
    for (Recipe const& recipe : recipes) {
      auto const* const all = of(recipe, Stage::first);
      if (all == nullptr || recipe.pools || recipe.pace != 1) continue;
      auto const* const speed = find_speed(std::string(recipe.name), 1);
      if (timed && speed == nullptr) continue;
      auto& line = plot.lines[recipe.width > 0 ? 0 : 1];
      line.x.push_back(timed ? speed->forward.median * 1e-3
                             : static_cast<double>(all->front().active_parameters) * 1e-6);
      line.y.push_back(value(*all, [&](auto const& r) { return old_bits(r.after); }).value);
    }
    return plot;
  }

  /// What was learnt against what was lost, a line for each way of learning.
  [[nodiscard]] mf::LinePlot extendability_plot() const {
    mf::LinePlot plot{"Extendability: " + o_.learnt + " learnt, the other domains lost", o_.learnt + ", bits per byte afterwards",
                      "bits per byte lost", {}, true};
    for (auto const& [name, ways] : ways_of_learning()) {
      auto& line = plot.lines.emplace_back(mf::LinePlot::Line{name, {}, {}});
      for (std::string const& recipe : ways) {
        line.x.push_back(value(results_.at(recipe), [&](auto const& r) { return r.after[learnt_]; }).value);
        line.y.push_back(value(results_.at(recipe), [&](auto const& r) { return lost_of(r); }).value);
      }
    }
    return plot;
  }

  [[nodiscard]] mf::LinePlot specialisation_plot() const {
    mf::LinePlot plot{"Specialisation: " + o_.task + " with fewer experts", "% of experts kept", "bits per byte", {}, true};
    for (auto const& [name, results] : specialised()) {
      auto& line = plot.lines.emplace_back(mf::LinePlot::Line{name, {}, {}});
      for (double const kept : kept_fractions) {
        line.x.push_back(100 * value(*results, [&](auto const& r) { return pruned(r, "model", kept).experts; }).value);
        line.y.push_back(value(*results, [&](auto const& r) { return pruned(r, "model", kept).bits_per_byte; }).value);
      }
    }
    return plot;
  }

  [[nodiscard]] nlohmann::json json() const {
    nlohmann::json json{{"identity", "sources " + maker_.sources + "; " + o_.settings()}, {"commit", maker_.commit}, {"speed", speeds_}};
    for (auto const& [name, results] : results_) json["cells"][name] = results;
    return json;
  }

 private:
  using Results = std::vector<ClaimResult>;

  [[nodiscard]] Results const* of(Recipe const& recipe, Stage stage) const {
    auto const found = results_.find(std::string(recipe.name));
    return recipe.stage != stage || found == results_.end() ? nullptr : &found->second;
  }
  /// Recipes that differ in rate and strength only, by what they train.
  [[nodiscard]] std::vector<std::pair<std::string, std::vector<std::string>>> ways_of_learning() const {
    std::vector<std::pair<std::string, std::vector<std::string>>> ways;
    for (Recipe const& recipe : recipes) {
      if (of(recipe, Stage::learn) == nullptr) continue;
      std::string const name = recipe.guard.l2 > 0   ? "new experts, l2"
                               : recipe.guard.kl > 0 ? "new experts, kl"
                               : recipe.only_new     ? "new experts"
                                                     : std::string(recipe.base) + ", all weights";
      if (ways.empty() || ways.back().first != name) ways.emplace_back(name, std::vector<std::string>{});
      ways.back().second.emplace_back(recipe.name);
    }
    return ways;
  }
  [[nodiscard]] std::vector<std::pair<std::string, Results const*>> specialised() const {
    std::vector<std::pair<std::string, Results const*>> all;
    for (Recipe const& recipe : recipes)
      if (auto const* const results = of(recipe, Stage::specialise)) all.emplace_back(recipe.name, results);
    return all;
  }
  [[nodiscard]] ClaimResult const* same_seed(std::string const& name, std::uint64_t seed) const {
    auto const found = results_.find(name);
    if (found == results_.end()) return nullptr;
    auto const result = std::ranges::find(found->second, seed, &ClaimResult::seed);
    return result == found->second.end() ? nullptr : &*result;
  }
  [[nodiscard]] ModelSpeed const* find_speed(std::string const& name, double kept) const {
    auto const found =
        std::ranges::find_if(speeds_.models, [&](ModelSpeed const& s) { return s.name == name && s.kept == kept; });
    return found == speeds_.models.end() ? nullptr : &*found;
  }
  static Pruned const& pruned(ClaimResult const& r, std::string const& by, double kept) {
    auto const found = std::ranges::find_if(r.pruned, [&](Pruned const& p) { return p.by == by && p.kept == kept; });
    mf::expects(found != r.pruned.end(), r.recipe, ", seed ", r.seed, ": expected a result with ", kept, " kept by ", by, ", found none");
    return *found;
  }
  [[nodiscard]] double lost_of(ClaimResult const& r) const { return old_bits(r.after) - old_bits(r.before); }
  /// Mean over the old domains.
  [[nodiscard]] double old_bits(std::vector<double> const& bits) const {
    double sum = 0;
    for (std::size_t const d : old_) sum += bits[d];
    return sum / static_cast<double>(old_.size());
  }

  template <class Get>
  static Mean value(Results const& results, Get const& get) {
    std::vector<double> values;
    for (ClaimResult const& r : results) values.push_back(get(r));
    return mean_of(values);
  }
  template <class Get>
  static std::string mean(Results const& results, Get const& get, int digits = 3) {
    return with_deviation(value(results, get), digits, results.size());
  }
  static std::vector<std::string>& begin(Rows& rows, Recipe const& recipe, Results const& results) {
    return rows.emplace_back(
        std::vector<std::string>{std::string(recipe.name), std::string(recipe.what), std::to_string(results.size())});
  }
  static void add_speed(std::vector<std::string>& row, ModelSpeed const* speed) {
    if (speed == nullptr) return row.resize(row.size() + 4);
    for (Timing const& timing : {speed->forward, speed->decode_1, speed->decode_8}) row.push_back(text_of(timing, 0));
    row.push_back(text_of(speed->memory_megabytes, 1));
  }
  static std::string thread_text(int threads) {
    return threads == 1 ? "one thread" : threads == 0 ? "all threads" : fmt::format("{} threads", threads);
  }
  static std::string text_of(Timing const& timing, int digits) {
    return fmt::format("{:.{}f} ±{:.{}f}", timing.median, digits, timing.spread, digits);
  }

  ClaimOptions const& o_;
  Maker maker_;
  std::map<std::string, Results> results_;
  Speeds speeds_;
  std::vector<std::size_t> old_;
  std::size_t learnt_ = 0;
};

}  // namespace bench
