// SPDX-License-Identifier: MIT
// Every golden case on a CUDA device in float. Models are named in templates only: see docs/cuda.md.
#include <moduleformer/backend/cuda.cuh>

#include "model/golden.hpp"

namespace mf = moduleformer;

template <class Backend>
void check_language_models() {
  for (char const* const name : mf::test::language_cases)
    mf::test::check_golden<mf::CausalLM<mf::dynamic_shape, mf::dynamic_policies, Backend>>(name);
}

template <class Backend>
void check_classifiers() {
  for (char const* const name : mf::test::classifier_cases)
    mf::test::check_golden<mf::SequenceClassifier<mf::dynamic_shape, mf::dynamic_policies, Backend>>(name);
}

BOOST_AUTO_TEST_CASE(language_models) { check_language_models<mf::Cuda<float>>(); }
BOOST_AUTO_TEST_CASE(classifiers) { check_classifiers<mf::Cuda<float>>(); }
