// SPDX-License-Identifier: MIT
// Every golden case on a CUDA device in bfloat16. Models are named in templates only: see docs/cuda.md.
#include <moduleformer/backend/cuda.cuh>

#include "model/golden_bfloat16.hpp"

namespace mf = moduleformer;

template <class Backend>
void check_language_models() {
  for (char const* const name : {"dense_all_experts", "gmm_router_mutual_information", "left_padded_batch",
                                 "linear_router_switch_loss", "mlp_router_mutual_information", "single_head_shared_keys"})
    mf::test::check_golden_bfloat16<mf::CausalLM<mf::dynamic_shape, mf::dynamic_policies, Backend>>(name);
}

template <class Backend>
void check_classifiers() {
  mf::test::check_golden_bfloat16<mf::SequenceClassifier<mf::dynamic_shape, mf::dynamic_policies, Backend>>("sequence_classification");
}

BOOST_AUTO_TEST_CASE(language_models) { check_language_models<mf::Cuda<mf::bfloat16>>(); }
BOOST_AUTO_TEST_CASE(classifiers) { check_classifiers<mf::Cuda<mf::bfloat16>>(); }
