// SPDX-License-Identifier: MIT
#pragma once
// Small models of every attention variant, with weights large enough for decisive routing and sampling.

#include <moduleformer/model/causal_lm.hpp>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

namespace moduleformer::test {

template <class B>
using ModelOn = CausalLM<dynamic_shape, dynamic_policies, B>;
template <class S>
using SmallModel = ModelOn<Cpu<S>>;

/// A name for messages, the attention policy's name, and whether keys are shared.
struct Variant {
  std::string attention;
  bool shared_keys = false;
};
inline std::vector<Variant> const variants{{"inclusive"},        {"inclusive_remainder"}, {"strict"},
                                           {"strict_remainder"}, {"inclusive", true},     {"strict_remainder", true}};

template <class B>
ModelOn<B> model_on(Variant const& variant, std::uint64_t seed = 3) {
  Config config;
  config.vocab_size = 23;
  config.hidden_size = 12;
  config.layers = 2;
  config.router_hidden_size = 8;
  config.attention = {5, 2, variant.shared_keys ? 1 : 3, 12};
  config.feed_forward = {7, 3, 10};
  dynamic_policies policies;
  expects(choose_policy(policies.attention, variant.attention), "no such attention: ", variant.attention);
  return ModelOn<B>::random(seed, config, {.initializer_range = 0.5}, policies);
}
template <class S>
SmallModel<S> small_model(Variant const& variant) {
  return model_on<Cpu<S>>(variant);
}

/// n ids below 23, different for each seed.
inline std::vector<TokenId> some_ids(Index n, std::uint64_t seed) {
  std::vector<TokenId> ids;
  for (Index i = 0; i < n; ++i)
    ids.push_back(static_cast<TokenId>(random_words({seed, 1, 1}, static_cast<std::uint64_t>(i))[0] % 23));
  return ids;
}

inline Batch one_row(std::vector<TokenId> ids) {
  Batch batch{.rows = 1, .tokens = static_cast<Index>(ids.size())};
  batch.ids = std::move(ids);
  return batch;
}

}  // namespace moduleformer::test
