// SPDX-License-Identifier: MIT
// A run on the CUDA backend, emulated, that is stopped and resumed ends in the same bits.
#include <moduleformer/backend/cuda_emulated.cuh>

#include "training/resume.hpp"

namespace mf = moduleformer;
using namespace mf::test;

BOOST_AUTO_TEST_CASE(float_run_resumes_bit_for_bit) {
  check_resumed_run<mf::CausalLM<tiny_shape, mf::Policies<>, mf::CudaEmulated<float>>>({0, 5});
}

BOOST_AUTO_TEST_CASE(runs_with_other_policies_resume_bit_for_bit) {
  auto settings = random_settings;
  settings.sampled_slots = 0;
  check_resumed_run<mf::CausalLM<tiny_shape, mf::Policies<mf::BiasedTopK, mf::SigmoidGates, mf::SharedExperts<1>>,
                                 mf::CudaEmulated<mf::bfloat16>>>({4}, settings);
  check_resumed_run<mf::CausalLM<tiny_shape, mf::Policies<mf::GumbelTopK, mf::TopKSoftmaxGates, mf::StreamingStatistics>,
                                 mf::CudaEmulated<float>>>({3}, settings);
}

BOOST_AUTO_TEST_CASE(bfloat16_run_resumes_bit_for_bit) {
  check_resumed_run<mf::CausalLM<tiny_shape, mf::Policies<>, mf::CudaEmulated<mf::bfloat16>>>({4});
}
