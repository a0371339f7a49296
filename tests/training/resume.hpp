// SPDX-License-Identifier: MIT
#pragma once
// A run that is stopped anywhere and resumed from weights and visited state ends in the same bits, on any backend.

#include "training/support.hpp"

#include <boost/test/unit_test.hpp>

#include <initializer_list>

namespace moduleformer::test {

template <class Model>
auto make_trainer(Model& model, TrainerOptions options = {.threads = 2, .seed = 8}) {
  return Trainer{model, AdamW{.learning_rate = 2e-2}, WarmupStableDecay{.warmup = 2, .total = 7, .decay = 3}, options};
}

template <class Trainer>
void run(Trainer& trainer, Index until) {
  for (auto const& batch : tiny_batches(until, trainer.steps())) trainer.step(batch);
}

/// Stops after each of these numbers of steps, out of seven.
template <class Model>
void check_resumed_run(std::initializer_list<Index> stops = {0, 1, 4, 6}, Settings settings = random_settings) {
  auto whole = Model::random(4, settings);
  auto trainer = make_trainer(whole);
  run(trainer, 7);
  auto const expected = StoredState::of(trainer);
  for (Index const stop : stops) {
    auto first = Model::random(4, settings);
    auto interrupted = make_trainer(first);
    run(interrupted, stop);
    auto const state = StoredState::of(interrupted);

    auto second = Model::random(99, settings);
    set_weights(second, weights(first));
    auto resumed = make_trainer(second, {.threads = 1, .seed = 8});
    state.into(resumed);
    BOOST_TEST(resumed.steps() == stop);
    run(resumed, 7);
    BOOST_TEST(same_bits(weights(whole), weights(second)));
    BOOST_TEST((StoredState::of(resumed).values == expected.values));
  }
}

}  // namespace moduleformer::test
