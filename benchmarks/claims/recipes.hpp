// SPDX-License-Identifier: MIT
#pragma once
// What the benchmark of the paper's claims trains: a first training of modular and dense models, and what follows from their
// models: another domain is learnt, or one of the old ones is specialised on.

#include <moduleformer/model/causal_lm.hpp>
#include <moduleformer/model/dense_baseline.hpp>
#include <moduleformer/training/router_guard.hpp>

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <string>
#include <string_view>

namespace bench {

namespace mf = moduleformer;

/// Modular and dense alike.
using Model = mf::CausalLM<mf::dynamic_shape, mf::dynamic_policies>;

enum class Stage { first, learn, specialise };

struct Recipe {
  std::string_view name;
  std::string_view base;      // the recipe whose model it starts from; none for a first training
  Stage stage;
  double width = 0;           // of a dense model's hidden size over the modular one's; 0: modular
  double pace = 1;            // of the rate
  bool only_new = false;      // train only inserted experts
  mf::RouterGuard guard{};
  double concentration = 0;   // weight of the loss
  bool pools = false;         // document pools
  std::string_view what;

  /// All that a result depends on.
  [[nodiscard]] std::string settings() const {
    return fmt::format("{} stage {} width {} pace {}{} l2 {} kl {} concentration {}{}", name, static_cast<int>(stage),
                       width, pace, only_new ? " only new" : "", guard.l2, guard.kl, concentration,
                       pools ? " pools" : "");
  }
};

inline constexpr std::array recipes{
    Recipe{.name = "modular", .base = "", .stage = Stage::first, .what = "mutual information 0.01"},
    Recipe{.name = "dense", .base = "", .stage = Stage::first, .width = 1, .what = "one expert, active parameters of the modular model"},
    Recipe{.name = "dense-1.5", .base = "", .stage = Stage::first, .width = 1.5, .what = "dense, 1.5 times the hidden size"},
    Recipe{.name = "dense-2", .base = "", .stage = Stage::first, .width = 2, .what = "dense, twice the hidden size"},
    Recipe{.name = "dense-2-0.5", .base = "", .stage = Stage::first, .width = 2, .pace = 0.5, .what = "the same at half the rate"},
    Recipe{.name = "dense-2-0.25", .base = "", .stage = Stage::first, .width = 2, .pace = 0.25, .what = "the same at a quarter of the rate"},
    Recipe{.name = "modular-0.5", .base = "", .stage = Stage::first, .pace = 0.5, .what = "modular at half the rate"},
    Recipe{.name = "dense-3", .base = "", .stage = Stage::first, .width = 3, .what = "dense, three times the hidden size"},
    Recipe{.name = "pools", .base = "", .stage = Stage::first, .pools = true,
           .what = "modular, a pool of experts for each document, switch 0.01"},
    Recipe{.name = "learn-dense", .base = "dense", .stage = Stage::learn, .what = "all weights of the dense model"},
    Recipe{.name = "learn-dense-0.3", .base = "dense", .stage = Stage::learn, .pace = 0.3, .what = "the same at 0.3 of the rate"},
    Recipe{.name = "learn-dense-0.1", .base = "dense", .stage = Stage::learn, .pace = 0.1, .what = "the same at 0.1 of the rate"},
    Recipe{.name = "learn-all", .base = "modular", .stage = Stage::learn, .what = "all weights of the modular model"},
    Recipe{.name = "learn-all-0.3", .base = "modular", .stage = Stage::learn, .pace = 0.3, .what = "the same at 0.3 of the rate"},
    Recipe{.name = "learn-all-0.1", .base = "modular", .stage = Stage::learn, .pace = 0.1, .what = "the same at 0.1 of the rate"},
    Recipe{.name = "learn-new", .base = "modular", .stage = Stage::learn, .pace = 4, .only_new = true,
           .what = "only new experts, at 4 times the rate"},
    Recipe{.name = "learn-new-1", .base = "modular", .stage = Stage::learn, .only_new = true, .what = "the same at the rate"},
    Recipe{.name = "learn-new-l2", .base = "modular", .stage = Stage::learn, .pace = 4, .only_new = true, .guard = {.l2 = 1e-2},
           .what = "only new experts, at 4 times the rate, l2 0.01 on their rows of routers"},
    Recipe{.name = "learn-new-l2-strong", .base = "modular", .stage = Stage::learn, .pace = 4, .only_new = true, .guard = {.l2 = 1e-1},
           .what = "the same, l2 0.1"},
    Recipe{.name = "learn-new-kl", .base = "modular", .stage = Stage::learn, .pace = 4, .only_new = true, .guard = {.kl = 1e-2},
           .what = "only new experts, at 4 times the rate, routers' divergence on old data 0.01"},
    Recipe{.name = "learn-new-kl-strong", .base = "modular", .stage = Stage::learn, .pace = 4, .only_new = true, .guard = {.kl = 1e-1},
           .what = "the same, divergence 0.1"},
    Recipe{.name = "task", .base = "modular", .stage = Stage::specialise, .what = "without a routing loss"},
    Recipe{.name = "task-concentration", .base = "modular", .stage = Stage::specialise, .concentration = 3e-2,
           .what = "load concentration 0.03"},
    Recipe{.name = "task-concentration-strong", .base = "modular", .stage = Stage::specialise, .concentration = 1e-1,
           .what = "load concentration 0.1"},
    Recipe{.name = "task-pools", .base = "pools", .stage = Stage::specialise, .what = "the model trained in pools, in pools, without a routing loss"},
};

inline Recipe const& find_recipe(std::string_view name) {
  auto const found = std::ranges::find(recipes, name, &Recipe::name);
  if (found != recipes.end()) return *found;
  std::string known;
  for (Recipe const& r : recipes) known += (known.empty() ? "" : ", ") + std::string(r.name);
  mf::fail<mf::Error>("--recipes: expected some of ", known, "; found '", name, "'");
}

}  // namespace bench
