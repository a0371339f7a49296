// SPDX-License-Identifier: MIT
// A run on the CUDA backend, emulated, that is stopped and resumed ends in the same bits.
#include <moduleformer/backend/cuda_emulated.cuh>

#include "training/resume.hpp"

namespace mf = moduleformer;
using namespace mf::test;

BOOST_AUTO_TEST_CASE(float_run_resumes_bit_for_bit) {
  check_resumed_run<mf::CausalLM<tiny_shape, mf::Policies<>, mf::CudaEmulated<float>>>({0, 5});
}

BOOST_AUTO_TEST_CASE(bfloat16_run_resumes_bit_for_bit) {
  check_resumed_run<mf::CausalLM<tiny_shape, mf::Policies<>, mf::CudaEmulated<mf::bfloat16>>>({4});
}
