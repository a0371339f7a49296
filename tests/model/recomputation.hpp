// SPDX-License-Identifier: MIT
#pragma once
// Blocks that are computed again in backward give the bits of blocks that were kept, with everything random switched on,
// on any backend.

#include "model/generation_support.hpp"

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

namespace moduleformer::test {

template <class B>
std::vector<float> gradients(Variant const& variant, bool recompute) {
  auto model = model_on<B>(variant);
  model.set_settings({.aux_loss_weight = 0.2, .embedding_dropout = 0.1, .residual_dropout = 0.2, .router_dropout = 0.1, .router_jitter = 0.1,
                      .sampled_slots = 1});
  model.policies().checkpointing.recompute_blocks = recompute;
  Batch batch = Batch::packed({some_ids(1, 1), some_ids(19, 2), some_ids(12, 3)});
  batch.labels = batch.ids;
  Session<B> session{SessionOptions{.seed = 9}};
  auto gradient = model.make_gradient();
  fill(session.backend(), gradient.values(), 0.0f);
  (void)model.gradients(session, batch, gradient, {}, true);
  std::vector<float> host(static_cast<std::size_t>(gradient.values().size()));
  to_host(session.backend(), gradient.values(), host.data());
  return host;
}

template <class B>
void check_recomputed_blocks() {
  for (Variant const& variant : {variants[0], variants[5]}) {
    auto const kept = gradients<B>(variant, false);
    BOOST_TEST((kept == gradients<B>(variant, true)));
    float largest = 0;
    for (float const x : kept) largest = std::max(largest, std::abs(x));
    BOOST_TEST(largest > 1e-3f);  // NaN or zeros would tell nothing
  }
}

}  // namespace moduleformer::test
