// SPDX-License-Identifier: MIT
#pragma once
// The dense model to compare a modular one with: one expert of each kind, which every token uses, of as many active parameters.
// With F' = K F a feed-forward layer has those of the K chosen experts. A modular attention layer shares the projections of keys and
// values among its experts, and has routers, so its A' is not K A but solves
//   active(A') = active of the modular model           (active parameters are linear in A')
// and is rounded to a multiple of the heads: of 32, 16, 8, ... times their number, whichever comes within 1 % first. One expert
// needs no choice: a dense model has a linear router, whose gate is always 1, and no routing loss.

#include <moduleformer/core/error.hpp>
#include <moduleformer/model/count.hpp>
#include <moduleformer/routing/policies.hpp>
#include <moduleformer/routing/routers.hpp>
#include <moduleformer/routing/routing_losses.hpp>

#include <algorithm>

namespace moduleformer {

/// Policies of a dense model.
using DensePolicies = Policies<LinearRouter, NoRoutingLoss>;

namespace detail {

/// A' of one block of the dense model; 0 if no multiple of the heads comes within 2 %.
template <class PolicySet>
constexpr Index dense_attention_hidden_size(PolicySet const& policies, BlockSizes const& modular) {
  auto const active = [](auto const& of, BlockSizes const& sizes) {
    Counts counts;
    count_block(counts, of, sizes);
    return counts.active_parameters;
  };
  Index const heads = modular.heads, aim = active(policies, modular);
  auto const dense = [&](Index attention_hidden_size) {
    return active(DensePolicies{}, {modular.hidden_size, modular.router_hidden_size, 1, 1, heads, attention_hidden_size, 1, 1,
                                    modular.feed_forward_top_k * modular.feed_forward_hidden_size});
  };
  // Two sizes far from A = D of one head, which has no projections.
  Index const far = 4 * modular.hidden_size * heads, slope = (dense(2 * far) - dense(far)) / far;
  double const exact = static_cast<double>(aim - (dense(far) - slope * far)) / static_cast<double>(slope);
  for (double const bound : {0.01, 0.02})
    for (Index step = 32 * heads; step >= heads; step -= step > heads ? step / 2 : heads) {
      auto const size = std::max(Index{1}, static_cast<Index>(exact / static_cast<double>(step) + 0.5)) * step;
      Index const difference = dense(size) > aim ? dense(size) - aim : aim - dense(size);
      if (static_cast<double>(difference) <= bound * static_cast<double>(aim)) return size;
    }
  return 0;
}

inline constexpr char no_dense_size[] = "dense baseline: no attention hidden size gives the active parameters of the modular model within 2 %";

}  // namespace detail

/// The shape of the dense model for a modular one of this shape: mf::CausalLM<mf::dense_baseline(shape), mf::DensePolicies>.
template <class PolicySet = Policies<>>
consteval Shape dense_baseline(Shape shape, PolicySet const& policies = {}) {
  Index const router_hidden_size = detail::has_hidden_layer<typename PolicySet::Router> ? shape.router_hidden_size : 0;
  for (Index const size : {shape.hidden_size, router_hidden_size, shape.attention.experts, shape.attention.top_k, shape.attention.heads,
                           shape.attention.hidden_size, shape.feed_forward.experts, shape.feed_forward.top_k,
                           shape.feed_forward.hidden_size})
    if (size == dynamic)
      throw "dense baseline: expected a shape whose layers have known sizes; dense_baseline(Config) takes those of run time";
  Index const attention = detail::dense_attention_hidden_size(
      policies, {shape.hidden_size, shape.router_hidden_size, shape.attention.experts, shape.attention.top_k, shape.attention.heads,
                 shape.attention.hidden_size, shape.feed_forward.experts, shape.feed_forward.top_k, shape.feed_forward.hidden_size});
  if (attention == 0)
    throw "dense baseline: no attention hidden size gives the active parameters of the modular model within 2 %";
  shape.attention = {1, 1, shape.attention.heads, attention};
  shape.feed_forward = {1, 1, shape.feed_forward.top_k * shape.feed_forward.hidden_size};
  return shape;
}

/// The same at run time. Throws Error where no size comes within 2 %, and for layers that differ or have dormant or removed experts.
template <class PolicySet = Policies<>>
Config dense_baseline(Config config, PolicySet const& policies = {}) {
  config.check();
  for (auto const* const counts : {&config.attention.experts, &config.feed_forward.experts})
    expects(counts->uniform(), "dense baseline: expected as many experts in every layer, found ", counts->smallest(), " to ", counts->largest());
  for (auto const* const counts :
       {&config.attention.dormant, &config.feed_forward.dormant, &config.attention.removed, &config.feed_forward.removed})
    expects(counts->largest() == 0, "dense baseline: expected no dormant or removed experts, found ", counts->largest(), " in a layer");
  Index const attention = detail::dense_attention_hidden_size(
      policies, {config.hidden_size, config.router_hidden_size, config.attention.experts[0], config.attention.top_k,
                 config.attention.heads, config.attention.hidden_size, config.feed_forward.experts[0], config.feed_forward.top_k,
                 config.feed_forward.hidden_size});
  expects(attention > 0, detail::no_dense_size);
  config.attention = {1, 1, config.attention.heads, attention};
  config.feed_forward = {1, 1, config.feed_forward.top_k * config.feed_forward.hidden_size};
  return config;
}

}  // namespace moduleformer
