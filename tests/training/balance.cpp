// SPDX-License-Identifier: MIT
// A selection that balances itself: its bias follows the counts of all micro-batches, evens out a skewed router without a
// loss, stays where a step fails, and is nothing that gradients train.

#include "training/support.hpp"

#include <boost/test/unit_test.hpp>

#include <cmath>
#include <limits>
#include <utility>

namespace mf = moduleformer;
using namespace mf::test;
using mf::Index;

namespace {

using Model = mf::CausalLM<tiny_shape, mf::Policies<mf::BiasedTopK, mf::SigmoidGates, mf::NoRoutingLoss>>;

std::size_t bias_of(Model const& model, char const* router) {
  return model.table().find(std::string("transformer.h.0.") + router + ".expert_bias");
}

std::vector<double> load(Model const& model, mf::Batch const& batch, std::size_t router) {
  mf::Session session{model, {.threads = 2}};
  mf::Observation<float> seen;
  (void)model.loss(session, batch, {.observation = &seen});
  return seen.routers[router].load;
}

double busiest(std::vector<double> const& load) {
  double sum = 0, most = 0;
  for (double const x : load) sum += x, most = std::max(most, x);
  return most / (sum / static_cast<double>(load.size()));
}

}  // namespace

BOOST_AUTO_TEST_CASE(the_bias_is_a_tensor_that_no_gradient_trains) {
  auto model = Model::random(3);
  std::size_t const i = bias_of(model, "mlpf.gate");
  BOOST_REQUIRE(i < model.table().count());
  BOOST_TEST(model.table()[i].size() == 4);
  BOOST_TEST(model.table()[i].trainable_size() == 0);
  for (float const b : weights(model, i)) BOOST_TEST(b == 0.0f);
  model.set_trainable(i, 0, 0);
  BOOST_TEST(complaint([&] { model.set_trainable(i, 0, 4); }) ==
             "transformer.h.0.mlpf.gate.expert_bias: is kept by the selection, gradients cannot train it");
}

BOOST_AUTO_TEST_CASE(one_step_moves_it_by_the_counts_of_all_micro_batches) {
  auto model = Model::random(3, {.initializer_range = 0.5});
  mf::Batch first, second;
  tiny_batches(2).read(0, first);
  tiny_batches(2).read(1, second);
  auto count = load(model, first, 1);
  auto const more = load(model, second, 1);
  double mean = 0;
  for (std::size_t e = 0; e < 4; ++e) count[e] += more[e], mean += count[e] / 4;
  mf::Trainer trainer{model, {}, mf::Constant{}, {.threads = 2}};
  mf::Batch const both[] = {first, second};
  trainer.step(both);
  auto const bias = weights(model, bias_of(model, "mlpf.gate"));
  for (std::size_t e = 0; e < 4; ++e) {
    float const expected = count[e] < mean ? 1e-3f : count[e] > mean ? -1e-3f : 0.0f;
    BOOST_TEST(bias[e] == expected);
  }
}

BOOST_AUTO_TEST_CASE(a_skewed_router_is_evened_out) {
  auto model = Model::random(3, {.initializer_range = 0.5});
  model.policies().selection.rate = 0.02;
  mf::Batch batch;
  tiny_batches(1).read(0, batch);
  double const before = busiest(load(model, batch, 1));
  mf::Trainer trainer{model, mf::AdamW{.learning_rate = 0, .weight_decay = 0}, mf::Constant{}, {.threads = 2}};
  for (int i = 0; i < 60; ++i) trainer.step(batch);
  BOOST_TEST(before > 1.3);
  BOOST_TEST(busiest(load(model, batch, 1)) < 1.15);
}

BOOST_AUTO_TEST_CASE(a_step_that_fails_leaves_it_as_it_was) {
  auto model = Model::random(3, {.initializer_range = 0.5});
  mf::Batch batch;
  tiny_batches(1).read(0, batch);
  mf::Trainer trainer{model, {}, mf::Constant{}, {.threads = 2}};
  trainer.step(batch);
  std::size_t const i = bias_of(model, "mlpf.gate"), head = model.table().find("lm_head.weight");
  auto const before = weights(model, i);
  auto broken = weights(model, head);
  broken[0] = std::numeric_limits<float>::quiet_NaN();
  set_weights(model, head, broken.data());
  BOOST_TEST(complaint([&] { trainer.step(batch); }).find("training step 2: the loss is") == 0);
  BOOST_TEST(same_bits(before, weights(model, i)));
}
