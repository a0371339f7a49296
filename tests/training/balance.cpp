// SPDX-License-Identifier: MIT
// A selection that balances itself, on the CPU.
#include "training/balance.hpp"

using namespace moduleformer::test;
using Float = moduleformer::Cpu<float>;

BOOST_AUTO_TEST_CASE(the_bias_is_a_tensor_that_no_gradient_trains) { check_that_no_gradient_trains_it<Float>(); }
BOOST_AUTO_TEST_CASE(one_step_moves_it_by_the_counts_of_all_micro_batches) { check_one_step<Float>(); }
BOOST_AUTO_TEST_CASE(a_skewed_router_is_evened_out) { check_a_skewed_router<Float>(); }
BOOST_AUTO_TEST_CASE(a_step_that_fails_leaves_it_as_it_was) { check_a_step_that_fails<Float>(); }
BOOST_AUTO_TEST_CASE(small_steps_add_up) { check_small_steps_add_up<Float>(); }

BOOST_AUTO_TEST_CASE(the_load_of_a_step_can_be_seen_and_changes_nothing) {
  using Plain = mf::CausalLM<tiny_shape>;
  auto watched = Plain::random(3, random_settings), other = Plain::random(3, random_settings);
  mf::Trainer watching{watched, {}, mf::Constant{}, {.threads = 2, .observe_load = true}}, trainer{other, {}, mf::Constant{}, {.threads = 2}};
  mf::Batch first, second;
  tiny_batches(2).read(0, first);
  tiny_batches(2).read(1, second);
  mf::Batch const both[] = {first, second};
  for (int step = 0; step < 2; ++step) {
    auto const report = watching.step(both);
    trainer.step(both);
    auto const load = watching.routing_load();
    BOOST_REQUIRE(load.size() == 4u);
    for (auto const& router : load) {
      double sum = 0;
      for (double const tokens : router) sum += tokens;
      BOOST_TEST(sum == 2 * static_cast<double>(report.tokens));
    }
  }
  BOOST_TEST(same_bits(weights(watched), weights(other)));
  BOOST_TEST(complaint([&] { (void)trainer.routing_load(); }) == "routing_load: expected a trainer with observe_load");
}
