// SPDX-License-Identifier: MIT
// Every golden case in float, shape and policies from the folder.
#include <moduleformer/backend/cpu.hpp>

#include "model/golden.hpp"

namespace mf = moduleformer;

BOOST_AUTO_TEST_CASE(language_models) {
  for (char const* const name : mf::test::language_cases)
    mf::test::check_golden<mf::CausalLM<mf::dynamic_shape, mf::dynamic_policies, mf::Cpu<float>>>(name);
}

BOOST_AUTO_TEST_CASE(classifiers) {
  for (char const* const name : mf::test::classifier_cases)
    mf::test::check_golden<mf::SequenceClassifier<mf::dynamic_shape, mf::dynamic_policies, mf::Cpu<float>>>(name);
}
