// SPDX-License-Identifier: MIT
// Generation on the CUDA backend, emulated, beside the CPU.
#include <moduleformer/backend/cuda_emulated.cuh>

#include "model/generation_beside_cpu.hpp"

#include <moduleformer/backend/cpu.hpp>

namespace mf = moduleformer;
using namespace mf::test;
using Float = mf::CudaEmulated<float>;
using Bfloat16 = mf::CudaEmulated<mf::bfloat16>;

std::vector<mf::Generated> mf::test::cpu_generated(Variant const& variant, GenerationOptions const& options) {
  return generated<Cpu<float>>(variant, options);
}

BOOST_AUTO_TEST_CASE(greedy_in_float) { check_greedy<Float>(); }
BOOST_AUTO_TEST_CASE(sampled_in_float) { check_sampled<Float>(); }
BOOST_AUTO_TEST_CASE(bfloat16_repeats_itself) { check_repeats_itself<Bfloat16>(); }
BOOST_AUTO_TEST_CASE(recorded_steps_make_the_same_tokens) { check_recorded_steps<Bfloat16>(); }
