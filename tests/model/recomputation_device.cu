// SPDX-License-Identifier: MIT
// Blocks that are computed again in backward, on a CUDA device.
#include <moduleformer/backend/cuda.cuh>

#include "model/recomputation.hpp"

namespace mf = moduleformer;

BOOST_AUTO_TEST_CASE(the_same_bits_in_float) { mf::test::check_recomputed_blocks<mf::Cuda<float>>(); }
BOOST_AUTO_TEST_CASE(the_same_bits_in_bfloat16) { mf::test::check_recomputed_blocks<mf::Cuda<mf::bfloat16>>(); }
