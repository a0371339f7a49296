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
