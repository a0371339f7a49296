// SPDX-License-Identifier: MIT
#pragma once
// A selection that balances itself, on any backend whose accumulator is float: its bias follows the counts of all
// micro-batches, evens out a skewed router without a loss, stays where a step fails, and is nothing that gradients train.

#include "training/support.hpp"

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

namespace moduleformer::test {

template <class B>
using Balanced = CausalLM<tiny_shape, Policies<BiasedTopK, SigmoidGates, NoRoutingLoss>, B>;

template <class Model>
std::size_t bias_of(Model const& model, char const* router) {
  return model.table().find(std::string("transformer.h.0.") + router + ".expert_bias");
}

template <class Model>
std::vector<double> load(Model const& model, Batch const& batch, std::size_t router) {
  Session session{model, {.threads = 2}};
  Observation<float> seen;
  (void)model.loss(session, batch, {.observation = &seen});
  return seen.routers[router].load;
}

inline double busiest(std::vector<double> const& load) {
  double sum = 0, most = 0;
  for (double const x : load) sum += x, most = std::max(most, x);
  return most / (sum / static_cast<double>(load.size()));
}

template <class B>
void check_that_no_gradient_trains_it() {
  auto model = Balanced<B>::random(3);
  std::size_t const i = bias_of(model, "mlpf.gate");
  BOOST_REQUIRE(i < model.table().count());
  BOOST_TEST(model.table()[i].size() == 4);
  BOOST_TEST(model.table()[i].trainable_size() == 0);
  for (float const b : weights(model, i)) BOOST_TEST(b == 0.0f);
  model.set_trainable(i, 0, 0);
  BOOST_TEST(complaint([&] { model.set_trainable(i, 0, 4); }) ==
             "transformer.h.0.mlpf.gate.expert_bias: is kept by the selection, gradients cannot train it");
}

template <class B>
void check_one_step(TrainerOptions options = {.threads = 2}) {
  auto model = Balanced<B>::random(3, {.initializer_range = 0.5});
  Batch first, second;
  tiny_batches(2).read(0, first);
  tiny_batches(2).read(1, second);
  auto count = load(model, first, 1);
  auto const more = load(model, second, 1);
  double mean = 0;
  for (std::size_t e = 0; e < 4; ++e) count[e] += more[e], mean += count[e] / 4;
  Trainer trainer{model, {}, Constant{}, options};
  Batch const both[] = {first, second};
  trainer.step(both);
  auto const bias = weights(model, bias_of(model, "mlpf.gate"));
  for (std::size_t e = 0; e < 4; ++e) {
    float const expected = count[e] < mean ? 1e-3f : count[e] > mean ? -1e-3f : 0.0f;
    BOOST_TEST(bias[e] == expected);
  }
}

template <class B>
void check_a_skewed_router(TrainerOptions options = {.threads = 2}) {
  auto model = Balanced<B>::random(3, {.initializer_range = 0.5});
  model.policies().selection.rate = 0.02;
  Batch batch;
  tiny_batches(1).read(0, batch);
  double const before = busiest(load(model, batch, 1));
  Trainer trainer{model, AdamW{.learning_rate = 0, .weight_decay = 0}, Constant{}, options};
  for (int i = 0; i < 60; ++i) trainer.step(batch);
  BOOST_TEST(before > 1.3);
  BOOST_TEST(busiest(load(model, batch, 1)) < 1.15);
}

template <class B>
void check_a_step_that_fails(TrainerOptions options = {.threads = 2}) {
  auto model = Balanced<B>::random(3, {.initializer_range = 0.5});
  Batch batch;
  tiny_batches(1).read(0, batch);
  Trainer trainer{model, {}, Constant{}, options};
  trainer.step(batch);
  std::size_t const i = bias_of(model, "mlpf.gate"), head = model.table().find("lm_head.weight");
  auto const before = weights(model, i);
  auto broken = weights(model, head);
  broken[0] = std::numeric_limits<float>::quiet_NaN();
  set_weights(model, head, broken.data());
  BOOST_TEST(complaint([&] { trainer.step(batch); }).find("training step 2: the loss is") == 0);
  BOOST_TEST(same_bits(before, weights(model, i)));
}

/// In bfloat16 small steps would be lost beside a larger bias; it is kept in float.
template <class B>
void check_small_steps_add_up(TrainerOptions options = {.threads = 2}) {
  auto model = Balanced<B>::random(3, {.initializer_range = 0.5});
  std::size_t const i = bias_of(model, "mlpf.gate");
  float const start[] = {0.5f, 0.5f, 0.5f, 0.5f};
  set_weights(model, i, start);
  model.policies().selection.rate = 1e-4;  // from 0.5 bfloat16's next numbers are 2e-3 away
  Batch batch;
  tiny_batches(1).read(0, batch);
  Trainer trainer{model, AdamW{.learning_rate = 0, .weight_decay = 0}, Constant{}, options};
  auto const count = load(model, batch, 1);
  double mean = 0;
  for (double const c : count) mean += c / 4;
  for (int step = 0; step < 3; ++step) trainer.step(batch);
  auto const bias = weights(model, i);
  double moved = 0;
  for (std::size_t e = 0; e < 4; ++e) {
    moved += std::abs(bias[e] - 0.5);
    if (count[e] != mean) BOOST_TEST(std::abs(bias[e] - 0.5 - (count[e] < mean ? 3e-4 : -3e-4)) < 1e-6);
  }
  BOOST_TEST(moved > 5e-4);
}

}  // namespace moduleformer::test
