// SPDX-License-Identifier: MIT
// Recorded routes replayed on a CUDA device, in float and bfloat16.
#include <moduleformer/backend/cuda.cuh>

#include "training/replay.hpp"

#include <tuple>

using moduleformer::test::ReplayChecks;
using Backends = std::tuple<moduleformer::Cuda<float>, moduleformer::Cuda<moduleformer::bfloat16>>;

BOOST_AUTO_TEST_CASE_TEMPLATE(the_same_bits, B, Backends) { ReplayChecks<B>().check_the_same_bits(); }
BOOST_AUTO_TEST_CASE_TEMPLATE(another_model, B, Backends) { ReplayChecks<B>().check_another_model(); }
BOOST_AUTO_TEST_CASE_TEMPLATE(training, B, Backends) { ReplayChecks<B>().check_training(); }
BOOST_AUTO_TEST_CASE_TEMPLATE(empty_slots, B, Backends) { ReplayChecks<B>().check_empty_slots(); }
BOOST_AUTO_TEST_CASE_TEMPLATE(refusals, B, Backends) { ReplayChecks<B>().check_refusals(); }
