// SPDX-License-Identifier: MIT
// Every golden case on the CUDA backend in bfloat16, its kernels emulated on the host.
#include <moduleformer/backend/cuda_emulated.cuh>

#include "model/golden_bfloat16.hpp"

namespace mf = moduleformer;
using Backend = mf::CudaEmulated<mf::bfloat16>;

BOOST_AUTO_TEST_CASE(language_models) {
  for (char const* const name : {"dense_all_experts", "gmm_router_mutual_information", "left_padded_batch",
                                 "linear_router_switch_loss", "mlp_router_mutual_information", "single_head_shared_keys"})
    mf::test::check_golden_bfloat16<mf::CausalLM<mf::dynamic_shape, mf::dynamic_policies, Backend>>(name);
}

BOOST_AUTO_TEST_CASE(classifiers) {
  mf::test::check_golden_bfloat16<mf::SequenceClassifier<mf::dynamic_shape, mf::dynamic_policies, Backend>>("sequence_classification");
}
