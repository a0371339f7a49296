// SPDX-License-Identifier: MIT
// Generation on a CUDA device beside the CPU (generation_device_cpu.cpp).
#include <moduleformer/backend/cuda.cuh>

#include "model/generation_beside_cpu.hpp"

namespace mf = moduleformer;
using namespace mf::test;
using Float = mf::Cuda<float>;
using Bfloat16 = mf::Cuda<mf::bfloat16>;

BOOST_AUTO_TEST_CASE(greedy_in_float) { check_greedy<Float>(); }
BOOST_AUTO_TEST_CASE(sampled_in_float) { check_sampled<Float>(); }
BOOST_AUTO_TEST_CASE(bfloat16_repeats_itself) { check_repeats_itself<Bfloat16>(); }
BOOST_AUTO_TEST_CASE(recorded_steps_make_the_same_tokens) { check_recorded_steps<Bfloat16>(); }
