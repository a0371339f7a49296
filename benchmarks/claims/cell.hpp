// SPDX-License-Identifier: MIT
#pragma once
// One cell of the table of claims: a recipe and a seed. What was measured of it, its file, its model.

#include "cells/result_file.hpp"
#include "claims/options.hpp"

#include <optional>
#include <string>
#include <vector>

namespace bench {

/// A model with fewer experts, on the task's held-out text.
struct Pruned {
  std::string by;           // "layer": the same fraction of each router's; "model": of all
  double kept = 0;          // asked for
  double experts = 0;       // that stayed, of all
  Index parameters = 0;
  double bits_per_byte = 0;
};

struct ClaimResult {
  std::string recipe;
  std::uint64_t seed = 0;
  Index parameters = 0, active_parameters = 0, trained_parameters = 0;
  std::vector<double> before{};  // held-out bits per byte of each domain, of the model it started from; none for a first training
  std::vector<double> after{};
  double agreement = -1;         // share of old domains' choices that the model it started from made too; -1: has none
  double new_share = 0;          // of old domains' choices that went to new experts
  std::vector<Pruned> pruned{};
};

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Pruned, by, kept, experts, parameters, bits_per_byte)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(ClaimResult, recipe, seed, parameters, active_parameters, trained_parameters, before, after,
                                   agreement, new_share, pruned)

struct ClaimCell {
  Recipe const* recipe = nullptr;
  std::uint64_t seed = 0;

  [[nodiscard]] std::string name() const { return fmt::format("{}-seed{}", recipe->name, seed); }
  [[nodiscard]] std::filesystem::path file(ClaimOptions const& o) const { return o.out / (name() + ".json"); }
  /// Where a stopped run goes on.
  [[nodiscard]] std::filesystem::path run(ClaimOptions const& o) const { return o.out / (name() + ".run"); }
  [[nodiscard]] std::filesystem::path model(ClaimOptions const& o) const { return o.out / (name() + ".model"); }
  /// All that its result depends on, beside the sources.
  [[nodiscard]] std::string settings(ClaimOptions const& o) const {
    std::string text = o.settings() + "; " + recipe->settings();
    if (auto const from = base()) text += " from " + from->recipe->settings();
    return text;
  }
  /// The cell whose model it starts from.
  [[nodiscard]] std::optional<ClaimCell> base() const {
    if (recipe->base.empty()) return {};
    return ClaimCell{&find_recipe(recipe->base), seed};
  }
};

/// In the order in which they run: all of a seed, bases first.
inline std::vector<ClaimCell> claim_cells(ClaimOptions const& o) {
  std::vector<ClaimCell> all;
  for (auto const seed : o.seeds)
    for (Recipe const& recipe : recipes)
      if (std::ranges::find(o.recipes, recipe.name) != o.recipes.end()) all.push_back({&recipe, seed});
  return all;
}

}  // namespace bench
