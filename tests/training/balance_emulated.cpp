// SPDX-License-Identifier: MIT
// A selection that balances itself, on the CUDA backend, emulated, in steps that are recorded and repeated.
#include <moduleformer/backend/cuda_emulated.cuh>

#include "training/balance.hpp"

#include <boost/mpl/list.hpp>

namespace mf = moduleformer;
using namespace mf::test;
using Backends = boost::mpl::list<mf::CudaEmulated<float>, mf::CudaEmulated<mf::bfloat16>>;
constexpr mf::TrainerOptions recorded{.threads = 1, .record_steps = true};

BOOST_AUTO_TEST_CASE_TEMPLATE(the_bias_is_a_tensor_that_no_gradient_trains, B, Backends) { check_that_no_gradient_trains_it<B>(); }
BOOST_AUTO_TEST_CASE_TEMPLATE(one_step_moves_it_by_the_counts_of_all_micro_batches, B, Backends) { check_one_step<B>(recorded); }
BOOST_AUTO_TEST_CASE_TEMPLATE(a_skewed_router_is_evened_out, B, Backends) { check_a_skewed_router<B>(recorded); }
BOOST_AUTO_TEST_CASE_TEMPLATE(a_step_that_fails_leaves_it_as_it_was, B, Backends) { check_a_step_that_fails<B>(recorded); }
BOOST_AUTO_TEST_CASE_TEMPLATE(small_steps_add_up, B, Backends) { check_small_steps_add_up<B>(recorded); }
