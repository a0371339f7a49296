// SPDX-License-Identifier: MIT
// On the CUDA backend, emulated, blocks that are computed again in backward give the bits of blocks that were kept,
// with everything random switched on.
#include <moduleformer/backend/cuda_emulated.cuh>

#include "model/generation_support.hpp"

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <tuple>
#include <vector>

namespace mf = moduleformer;
using namespace moduleformer::test;

namespace {

using Backends = std::tuple<mf::CudaEmulated<float>, mf::CudaEmulated<mf::bfloat16>>;

template <class B>
std::vector<float> gradients(Variant const& variant, bool recompute) {
  auto model = model_on<B>(variant);
  model.set_settings({.aux_loss_weight = 0.2, .embedding_dropout = 0.1, .residual_dropout = 0.2, .router_dropout = 0.1, .router_jitter = 0.1,
                      .sampled_slots = 1});
  model.policies().checkpointing.recompute_blocks = recompute;
  mf::Batch batch = mf::Batch::packed({some_ids(1, 1), some_ids(19, 2), some_ids(12, 3)});
  batch.labels = batch.ids;
  mf::Session<B> session{mf::SessionOptions{.seed = 9}};
  auto gradient = model.make_gradient();
  fill(session.backend(), gradient.values(), 0.0f);
  (void)model.gradients(session, batch, gradient, {}, true);
  std::vector<float> host(static_cast<std::size_t>(gradient.values().size()));
  to_host(session.backend(), gradient.values(), host.data());
  return host;
}

}  // namespace

BOOST_AUTO_TEST_CASE_TEMPLATE(the_same_bits, B, Backends) {
  for (Variant const& variant : {variants[0], variants[5]}) {
    auto const kept = gradients<B>(variant, false);
    BOOST_TEST(kept == gradients<B>(variant, true));
    float largest = 0;
    for (float const x : kept) largest = std::max(largest, std::abs(x));
    BOOST_TEST(largest > 1e-3f);  // NaN or zeros would tell nothing
  }
}
