// SPDX-License-Identifier: MIT
// Every golden case on the CUDA backend in float, its kernels emulated on the host.
#include <moduleformer/backend/cuda_emulated.cuh>

#include "model/golden.hpp"

namespace mf = moduleformer;

BOOST_AUTO_TEST_CASE(language_models) {
  for (char const* const name : mf::test::language_cases)
    mf::test::check_golden<mf::CausalLM<mf::dynamic_shape, mf::dynamic_policies, mf::CudaEmulated<float>>>(name);
}

BOOST_AUTO_TEST_CASE(classifiers) {
  for (char const* const name : mf::test::classifier_cases)
    mf::test::check_golden<mf::SequenceClassifier<mf::dynamic_shape, mf::dynamic_policies, mf::CudaEmulated<float>>>(name);
}
