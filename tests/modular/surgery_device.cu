// SPDX-License-Identifier: MIT
// Surgery and freezing on a CUDA device, in float and bfloat16.
#include <moduleformer/backend/cuda.cuh>

#include "modular/surgery.hpp"

#include <tuple>

using moduleformer::test::SurgeryChecks;
using Backends = std::tuple<moduleformer::Cuda<float>, moduleformer::Cuda<moduleformer::bfloat16>>;

BOOST_AUTO_TEST_CASE_TEMPLATE(growing, B, Backends) { SurgeryChecks<B>().check_growing(); }
BOOST_AUTO_TEST_CASE_TEMPLATE(guarded_training, B, Backends) { SurgeryChecks<B>().check_guarded_training(); }
BOOST_AUTO_TEST_CASE_TEMPLATE(pruning, B, Backends) { SurgeryChecks<B>().check_pruning(); }
BOOST_AUTO_TEST_CASE_TEMPLATE(taking_out, B, Backends) { SurgeryChecks<B>().check_taking_out(); }
