// SPDX-License-Identifier: MIT
// A run on a CUDA device that is stopped and resumed ends in the same bits.
#include <moduleformer/backend/cuda.cuh>

#include "training/resume.hpp"

namespace mf = moduleformer;

template <class B>
void check(std::initializer_list<mf::Index> stops) {
  mf::test::check_resumed_run<mf::CausalLM<mf::test::tiny_shape, mf::Policies<>, B>>(stops);
}

BOOST_AUTO_TEST_CASE(float_run_resumes_bit_for_bit) { check<mf::Cuda<float>>({0, 5}); }
BOOST_AUTO_TEST_CASE(bfloat16_run_resumes_bit_for_bit) { check<mf::Cuda<mf::bfloat16>>({4}); }
