// SPDX-License-Identifier: MIT
#pragma once
// Trains and measures one cell. What a stopped run needs lies in a folder beside the results, saved every so many seconds: weights,
// the trainer's state and the moments measured, so a resumed cell ends as an uninterrupted one.

#include "cells/run_folder.hpp"
#include "routing/cell.hpp"
#include "routing/routers.hpp"
#include "support.hpp"

#include <moduleformer/training/schedule.hpp>
#include <moduleformer/training/trainer.hpp>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace bench {

class CellRun {
 public:
  CellRun(RoutingOptions const& o, Cell const& cell)
      : o_(o), cell_(cell), texts_(o.texts(cell.seed)), folder_(cell.run(o), identity(cell.settings(o)), o.save_every) {
    cell.variant->choose(routing_);
  }

  /// Seconds of the whole cell by those of some steps of a new model, without its evaluation.
  double estimate_seconds() const {
    Model model = Model::random(cell_.seed, o_.config(), routing_.settings, routing_.policies);
    mf::Trainer trainer{model, mf::AdamW{}, mf::Constant{}, {.threads = o_.threads}};
    mf::Batch batch;
    texts_.read(0, batch);
    return median_seconds(2, [&] { trainer.step(batch); }) * static_cast<double>(o_.steps());
  }

  CellResult run() {
    Model model = start();
    mf::Trainer trainer{model, mf::AdamW{.learning_rate = o_.rate},
                        mf::WarmupCosine{.warmup = std::min(Index{50}, o_.steps()), .total = o_.steps(), .floor = 0.05},
                        {.threads = o_.threads, .seed = cell_.seed}};
    auto moments = nlohmann::json::parse(folder_.notes().empty() ? "[]" : folder_.notes()).get<std::vector<Moment>>();
    mf::Batch batch;
    auto const step = [&](auto& t) {
      texts_.read(t.steps(), batch);
      t.step(batch);
      Index const every = std::max(Index{1}, o_.steps() / 20);
      if (t.steps() % every == 0) moments.push_back(moment(model, t.steps() * o_.tokens_per_step()));
    };
    folder_.train(trainer, o_.steps(), step, [&] { return nlohmann::json(moments).dump(); });
    CellResult result = measure(model);
    result.moments = std::move(moments);
    return result;
  }

 private:
  /// A new model, or the one of a run that was stopped, if it had the same sources and settings.
  Model start() {
    if (auto model = folder_.stored<Model>()) return std::move(*model);
    return Model::random(cell_.seed, o_.config(), routing_.settings, routing_.policies);
  }

  Moment moment(Model const& model, Index tokens) const {
    mf::Session session{model, {.threads = o_.threads}};
    mf::RoutingSummary use(domain_names());
    double bits = 0;
    for (std::size_t d = 0; d < texts_.domains(); ++d) bits += score(model, session, d, use, 4);
    auto const effective = [&](Kind kind) { return result_of(use, kind).effective; };
    return {tokens, bits / static_cast<double>(texts_.domains()), effective(Kind::attention),
            effective(Kind::feed_forward)};
  }

  [[nodiscard]] std::vector<std::string> domain_names() const {
    std::vector<std::string> names;
    for (Domain const& d : o_.domains) names.push_back(d.name);
    return names;
  }

  /// Bits per byte of a domain's held-out text, or of its first batches; adds what routers did.
  double score(Model const& model, mf::Session<mf::DefaultBackend>& session, std::size_t domain,
               mf::RoutingSummary& use, Index batches) const {
    auto const held_out = texts_.held_out(domain);
    mf::Batch batch;
    double nats = 0;
    Index counted = 0;
    for (Index i = 0; i < std::min(batches, held_out.size()); ++i) {
      held_out.read(i, batch);
      mf::Observation<float> seen;
      mf::LossReport const loss = model.loss(session, batch, {.observation = &seen});
      nats += loss.task * static_cast<double>(loss.counted);
      counted += loss.counted;
      use.add(domain, seen);
    }
    return nats / static_cast<double>(counted) / std::numbers::ln2;
  }

  CellResult measure(Model& model) const {
    CellResult result{.policy = std::string(cell_.variant->name), .seed = cell_.seed};
    mf::Session session{model, {.threads = o_.threads}};
    mf::RoutingSummary use(domain_names());
    for (std::size_t d = 0; d < texts_.domains(); ++d)
      result.domain_bits.push_back(score(model, session, d, use, std::numeric_limits<Index>::max()));
    result.attention = result_of(use, Kind::attention);
    result.feed_forward = result_of(use, Kind::feed_forward);
    result.task_gradient = gradient_norm(model, {.auxiliary = 0});
    // The cross-entropy divided by a huge number leaves the routing losses alone.
    result.routing_gradient = gradient_norm(model, {.counted = 1e30});
    return result;
  }

  /// Of the batch of the step after the last.
  double gradient_norm(Model& model, mf::GradientScale scale) const {
    mf::Session session{model, {.threads = o_.threads}};
    mf::Batch batch;
    texts_.read(o_.steps(), batch);
    auto gradient = model.make_gradient();
    fill(session.backend(), gradient.values(), 0.0f);
    (void)model.gradients(session, batch, gradient, scale);
    double sum = 0;
    squared_norm(session.backend(), gradient.values(), mf::Vector<double>{&sum, {1}});
    return std::sqrt(sum);
  }

  RoutingOptions const& o_;
  Cell cell_;
  MixedTexts texts_;
  Routing routing_;
  RunFolder folder_;
};

}  // namespace bench
