// SPDX-License-Identifier: MIT
#pragma once
// Trains and measures one cell of the table of claims. Its model stays in a folder, for cells that start from it and for timings.

#include "cells/run_folder.hpp"
#include "claims/cell.hpp"

#include <moduleformer/model/count.hpp>
#include <moduleformer/model/route_agreement.hpp>
#include <moduleformer/modular/freeze.hpp>
#include <moduleformer/modular/insert.hpp>
#include <moduleformer/modular/prune.hpp>
#include <moduleformer/training/evaluation.hpp>
#include <moduleformer/training/schedule.hpp>
#include <moduleformer/training/trainer.hpp>

#include <algorithm>
#include <cmath>
#include <utility>

namespace bench {

/// Fractions of experts that stay.
inline constexpr double kept_fractions[] = {1, 0.75, 0.5, 0.4, 0.3, 0.2, 0.1};

/// What routers of a specialised model do on text of the task that was trained on.
inline std::vector<mf::RouterSummary> use_on_task(ClaimOptions const& o, ClaimCell const& cell, Model const& model,
                                                  mf::Session<mf::DefaultBackend>& session) {
  mf::ByteBatches const text(o.domain(o.task).front().file,
                             {.rows = o.rows, .tokens = o.window, .steps = 16, .seed = cell.seed + 900, .held_out = o.held_out});
  return mf::evaluate(model, session, text).routers;
}

class ClaimRun {
 public:
  ClaimRun(ClaimOptions const& o, ClaimCell const& cell)
      : o_(o), cell_(cell), recipe_(*cell.recipe), folder_(cell.run(o), identity(cell.settings(o)), o.save_every) {}

  /// Seconds of the whole cell by those of some steps of a first training.
  double estimate_seconds() const {
    Model model = new_model();
    mf::Trainer trainer{model, mf::AdamW{}, mf::Constant{}, {.threads = o_.threads}};
    mf::Batch batch;
    o_.texts(o_.old_domains(), 1, cell_.seed).read(0, batch);
    return median_seconds(2, [&] { trainer.step(batch); }) * static_cast<double>(o_.steps_of(o_.tokens));
  }

  ClaimResult run() {
    Model model = start();
    auto const steps = o_.steps_of(is_first() ? o_.tokens : o_.tune_tokens);
    auto const text = o_.texts(trained_domains(), steps, cell_.seed);
    mf::Trainer trainer{model, mf::AdamW{.learning_rate = rate()},
                        mf::WarmupCosine{.warmup = std::min(Index{50}, steps), .total = steps, .floor = 0.05},
                        {.threads = o_.threads, .seed = cell_.seed, .guard = recipe_.guard}};
    auto const old_text = o_.texts(o_.old_domains(), steps, cell_.seed + 500);
    mf::Batch batch, old;
    auto const step = [&](auto& t) {
      text.read(t.steps(), batch);
      if (recipe_.guard.kl > 0) old_text.read(t.steps(), old);
      t.step(std::span<mf::Batch const>(&batch, 1), {}, std::span<mf::Batch const>(&old, recipe_.guard.kl > 0 ? 1 : 0));
    };
    folder_.train(trainer, steps, step, [] { return std::string(); });
    if (!is_first() && find_recipe(recipe_.base).pools) model.policies().selection = mf::DocumentPool{};  // sizes that fit whatever pruning leaves
    ClaimResult result = measure(model);
    mf::save(model, cell_.model(o_));
    return result;
  }

 private:
  [[nodiscard]] bool is_first() const { return recipe_.stage == Stage::first; }

  /// Larger models take smaller rates: as 1 / width.
  [[nodiscard]] double rate() const {
    return recipe_.pace * (is_first() ? o_.rate : o_.tune_rate) / std::max(1.0, find_recipe(is_first() ? recipe_.name : recipe_.base).width);
  }

  [[nodiscard]] std::vector<Domain> trained_domains() const {
    if (is_first()) return o_.old_domains();
    return o_.domain(recipe_.stage == Stage::learn ? o_.learnt : o_.task);
  }

  [[nodiscard]] Model new_model() const {
    mf::dynamic_policies policies;
    mf::Settings settings;
    if (recipe_.width > 0) {
      auto config = o_.config();
      config.hidden_size = multiple_of(config.hidden_size);
      config.feed_forward.hidden_size = multiple_of(config.feed_forward.hidden_size);
      config.attention.hidden_size = multiple_of(config.attention.hidden_size);
      policies.router = mf::LinearRouter{};
      policies.routing_loss = mf::NoRoutingLoss{};
      settings.aux_loss_weight = 0;
      return Model::random(cell_.seed, mf::dense_baseline(config, mf::Policies<>{}), settings, policies);
    }
    settings.aux_loss_weight = 1e-2;
    if (recipe_.pools) {
      policies.routing_loss = mf::SwitchLoss{};
      mf::DocumentPool pool;
      pool.smallest = std::min({2 * o_.top_k, o_.attention_experts, o_.ffn_experts});
      policies.selection = pool;
    }
    return Model::random(cell_.seed, o_.config(), settings, policies);
  }
  [[nodiscard]] Index multiple_of(Index n) const {
    return static_cast<Index>(std::lround(static_cast<double>(n) * recipe_.width / 16)) * 16;
  }

  /// The model that the recipe's base left.
  [[nodiscard]] Model base_model() const {
    ClaimCell const base = *cell_.base();
    auto const made = read_result<ClaimResult>(base.settings(o_), base.file(o_));
    mf::expects(made && made->by_this_program() && std::filesystem::exists(base.model(o_)), cell_.name(), ": expected ", base.name(),
                " to be done before");
    return mf::load<Model>(base.model(o_), {.map = false});
  }

  /// A new model, the base's changed by the recipe, or the one of a run that was stopped; with what trains chosen.
  Model start() {
    auto stored = folder_.stored<Model>();
    if (is_first()) return stored ? std::move(*stored) : new_model();
    Model model = base_model();
    if (!recipe_.only_new) {
      if (stored) model = std::move(*stored);
      if (recipe_.stage == Stage::specialise) specialise(model);
      return model;
    }
    auto [grown, rows] = mf::insert_experts(model, {.attention = o_.new_attention, .feed_forward = o_.new_ffn, .seed = cell_.seed + 77});
    auto active = mf::activate(grown).model;
    if (stored) active = std::move(*stored);
    mf::train_only_new(active, rows);
    return active;
  }

  void specialise(Model& model) const {
    auto policies = std::as_const(model).policies();
    auto settings = model.settings();
    if (recipe_.concentration > 0) policies.routing_loss = mf::LoadConcentrationLoss{};
    else policies.routing_loss = mf::NoRoutingLoss{};
    settings.aux_loss_weight = recipe_.concentration;
    model.policies() = policies;
    model.set_settings(settings);
  }

  ClaimResult measure(Model& model) const {
    ClaimResult result{.recipe = std::string(recipe_.name), .seed = cell_.seed};
    auto const counts = counts_of(model);
    result.parameters = counts.parameters;
    result.active_parameters = counts.active_parameters;
    for (auto const& segment : model.table().segments()) result.trained_parameters += segment.trainable_size();
    result.after = bits_of(model);
    if (is_first()) return result;
    Model const base = base_model();
    result.before = bits_of(base);
    if (recipe_.stage == Stage::learn && base.config().feed_forward.experts.largest() > 1) compare(base, model, result);
    if (recipe_.stage == Stage::specialise) prune(model, result);
    return result;
  }

  [[nodiscard]] std::vector<double> bits_of(Model const& model) const {
    mf::Session session{model, {.threads = o_.threads}};
    auto const texts = o_.texts(o_.domains, 1, cell_.seed);
    std::vector<double> bits;
    for (std::size_t d = 0; d < o_.domains.size(); ++d) bits.push_back(mf::evaluate(model, session, texts.held_out(d)).bits_per_byte());
    return bits;
  }

  /// How routes on old domains moved.
  void compare(Model const& base, Model const& model, ClaimResult& result) const {
    auto const old = o_.old_domains();
    auto const texts = o_.texts(old, 1, cell_.seed);
    mf::Session one{base, {.threads = o_.threads}}, other{model, {.threads = o_.threads}};
    double slots = 0, fresh = 0;
    result.agreement = 0;
    for (std::size_t d = 0; d < old.size(); ++d) {
      auto const now = mf::record_routes(model, other, texts.held_out(d));
      auto const seen = mf::compare_routes(mf::record_routes(base, one, texts.held_out(d)), now, mf::SecondModel::grown);
      result.agreement += mf::mean_agreement(seen).shared_slots / static_cast<double>(old.size());
      for (std::size_t r = 0; r < now.routers.size(); ++r) {
        auto const& experts = r % 2 == 0 ? base.config().attention.experts : base.config().feed_forward.experts;
        slots += static_cast<double>(now.routers[r].experts.size());
        fresh += static_cast<double>(std::ranges::count_if(now.routers[r].experts, [&](auto e) { return e >= experts[static_cast<Index>(r / 2)]; }));
      }
    }
    result.new_share = fresh / slots;
  }

  /// Fewer and fewer experts, by their use on text of the task that was trained on.
  void prune(Model const& model, ClaimResult& result) const {
    auto const task = o_.domain(o_.task);
    auto const texts = o_.texts(task, 1, cell_.seed);
    mf::Session session{model, {.threads = o_.threads}};
    auto const use = use_on_task(o_, cell_, model, session);
    for (bool const by_layer : {true, false})
      for (double const kept : kept_fractions) {
        auto const map = by_layer ? mf::keep_fraction(model, use, kept) : mf::keep_fraction_of_all(model, use, kept);
        Model const small = mf::prune(model, map).model;
        mf::Session smaller{small, {.threads = o_.threads}};
        result.pruned.push_back({by_layer ? "layer" : "model", kept, share_kept(model, small), counts_of(small).parameters,
                                 mf::evaluate(small, smaller, texts.held_out(0)).bits_per_byte()});
      }
  }

  static mf::Counts counts_of(Model const& model) { return mf::count(model.config(), model.policies(), model.outputs()); }

  static double share_kept(Model const& before, Model const& after) {
    auto const experts = [](mf::Config const& c) {
      double sum = 0;
      for (Index i = 0; i < c.layers; ++i) sum += static_cast<double>(c.attention.experts[i] + c.feed_forward.experts[i]);
      return sum;
    };
    return experts(after.config()) / experts(before.config());
  }

  ClaimOptions const& o_;
  ClaimCell cell_;
  Recipe const& recipe_;
  RunFolder folder_;
};

}  // namespace bench
