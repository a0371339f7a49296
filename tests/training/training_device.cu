// SPDX-License-Identifier: MIT
// Training on a CUDA device beside training on the CPU (training_device_cpu.cpp); steps recorded as graphs.
#include <moduleformer/backend/cuda.cuh>

#include "training/beside_cpu.hpp"

namespace mf = moduleformer;
using namespace mf::test;
using Float = mf::Cuda<float>;
using Bfloat16 = mf::Cuda<mf::bfloat16>;

BOOST_AUTO_TEST_CASE(twenty_steps_in_float) { check_twenty_steps_in_float<Float>(); }
BOOST_AUTO_TEST_CASE(twenty_steps_in_bfloat16) { check_twenty_steps_in_bfloat16_on_the_same_routes<Bfloat16>(); }
BOOST_AUTO_TEST_CASE(two_hundred_steps) { check_two_hundred_steps<Float, Bfloat16>(); }
BOOST_AUTO_TEST_CASE(the_same_bits_again_and_recorded_in_float) { check_the_same_bits_again_and_recorded<Float>(); }
BOOST_AUTO_TEST_CASE(the_same_bits_again_and_recorded) { check_the_same_bits_again_and_recorded<Bfloat16>(); }
