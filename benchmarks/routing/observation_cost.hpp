// SPDX-License-Identifier: MIT
#pragma once
// Seconds of a training step with and without observation of its routers, of the first policy: the trainer's load
// (TrainerOptions::observe_load, read after every step), and everything, each token's experts, gates and probabilities, summed up
// as a RoutingSummary. What is compared is timed in turn, so that a machine that changes its pace does so for both.

#include "routing/speed.hpp"

#include <moduleformer/model/routing_summary.hpp>

namespace bench {

struct ObservationCost {
  double step = 0, step_with_load = 0;             // of a trainer
  double gradients = 0, gradients_with_all = 0;    // forward and backward
  [[nodiscard]] double load_percent() const { return 100 * (step_with_load / step - 1); }
  [[nodiscard]] double all_percent() const { return 100 * (gradients_with_all - gradients) / step; }
};

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(ObservationCost, step, step_with_load, gradients, gradients_with_all)

inline ObservationCost measure_observation(RoutingOptions const& o, Index repeats) {
  Routing routing;
  variants.front().choose(routing);
  Model model = Model::random(1, o.config(), routing.settings, routing.policies);
  auto const trainer = [&](bool observe) {
    return mf::Trainer{
        model, mf::AdamW{.learning_rate = 1e-6}, mf::Constant{}, {.threads = o.threads, .observe_load = observe}};
  };
  auto plain = trainer(false), with_load = trainer(true);
  mf::Session session{model, {.threads = o.threads}};
  auto gradient = model.make_gradient();
  mf::Batch const batch = random_batch(o);
  mf::RoutingSummary summary;

  std::vector<double> seconds[4];
  auto const time = [&](int which, auto&& work) {
    double const begin = now();
    work();
    seconds[which].push_back(now() - begin);
  };
  for (Index i = 0; i <= repeats; ++i) {
    time(0, [&] { plain.step(batch); });
    time(1, [&] {
      with_load.step(batch);
      (void)with_load.routing_load();
    });
    time(2, [&] { (void)model.gradients(session, batch, gradient, {}, true); });
    time(3, [&] {
      mf::Observation<float> seen;
      (void)model.gradients(session, batch, gradient, {}, true, {.observation = &seen});
      summary.add(0, seen);
    });
    if (i == 0)  // warm now
      for (auto& times : seconds) times.clear();
  }
  return {median(seconds[0]), median(seconds[1]), median(seconds[2]), median(seconds[3])};
}

inline std::filesystem::path observation_file(RoutingOptions const& o) { return o.out / "observation.speed.json"; }

}  // namespace bench
