// SPDX-License-Identifier: MIT
// Training on the CUDA backend, emulated, beside training on the CPU.
#include <moduleformer/backend/cuda_emulated.cuh>

#include "training/beside_cpu_reference.hpp"

namespace mf = moduleformer;
using namespace mf::test;
using Float = mf::CudaEmulated<float>;
using Bfloat16 = mf::CudaEmulated<mf::bfloat16>;

BOOST_AUTO_TEST_CASE(twenty_steps_in_float) { check_twenty_steps_in_float<Float>(); }
BOOST_AUTO_TEST_CASE(twenty_steps_in_bfloat16) { check_twenty_steps_in_bfloat16_on_the_same_routes<Bfloat16>(); }
BOOST_AUTO_TEST_CASE(two_hundred_steps) { check_two_hundred_steps<Float, Bfloat16>(); }
BOOST_AUTO_TEST_CASE(the_same_bits_again_and_recorded) { check_the_same_bits_again_and_recorded<Bfloat16>(); }
BOOST_AUTO_TEST_CASE(there_is_nothing_to_record_on_the_cpu) {
  BOOST_TEST(cpu_losses(3, {.dropout = 0.1, .record = true, .late = true}) == cpu_losses(3, {.dropout = 0.1}));
}
