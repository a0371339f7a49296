// SPDX-License-Identifier: MIT
#pragma once
// Parameters, bytes and floating-point operations of a model, at compile time for a static shape.
// A multiply-add counts as two operations; elementwise work, norms and softmax are not counted.

#include <moduleformer/model/config.hpp>
#include <moduleformer/routing/policies.hpp>

namespace moduleformer {

/// Sizes of one block that counting needs.
struct BlockSizes {
  Index hidden_size = 0;          // D
  Index router_hidden_size = 0;   // R
  Index attention_experts = 0, attention_top_k = 0, heads = 0, attention_hidden_size = 0;
  Index feed_forward_experts = 0, feed_forward_top_k = 0, feed_forward_hidden_size = 0;
  Index dormant_attention = 0, dormant_feed_forward = 0;  // of these experts
  Index removed_attention = 0, removed_feed_forward = 0;  // rows of routers without an expert
};

/// Sums over a model.
struct Counts {
  Index parameters = 0;
  Index active_parameters = 0;   // used for one token: the chosen experts, everything dense, one embedding row
  Index dense_flops = 0;         // per token, forward: products with parameters
  Index flops_per_key = 0;       // per token and visible key, forward: scores and their products with values

  /// Forward of one token that sees `keys` keys.
  [[nodiscard]] constexpr Index forward_flops(Index keys) const { return dense_flops + keys * flops_per_key; }
  /// Mean per token over sequences of T tokens, which see (T + 1) / 2 keys each.
  [[nodiscard]] constexpr double mean_forward_flops(Index tokens) const {
    return static_cast<double>(dense_flops) + (static_cast<double>(tokens) + 1) / 2 * static_cast<double>(flops_per_key);
  }
  /// The same for forward and backward, which has twice the forward's products. What a kernel computes
  /// again is not counted.
  [[nodiscard]] constexpr double mean_training_flops(Index tokens) const { return 3 * mean_forward_flops(tokens); }
};

namespace detail {

/// Adds a router. Dormant experts have parameters and nothing else.
template <class PolicySet>
constexpr void count_router(Counts& counts, PolicySet const& policies, RouterExtents extents) {
  auto const router = [&](Index experts) {
    CountParameters visitor;
    typename PolicySet::Router::template Parameters<Values<float>> views{};
    policies.router.visit_parameters({extents.hidden_size, extents.router_hidden_size, experts}, views, visitor);
    return visitor.total;
  };
  auto const selection = [&](Index experts) {
    CountParameters visitor;
    typename PolicySet::Selection::template Parameters<Values<float>> views{};
    policies.selection.visit_parameters(experts, views, visitor);
    return visitor.total + (extents.removed > 0 ? experts : 0);
  };
  Index const active = extents.experts, all = active + extents.dormant;
  counts.parameters += router(all) + selection(all);
  counts.active_parameters += router(active) + selection(active);
  counts.dense_flops += 2 * router(active);
}

constexpr void count_experts(Counts& counts, Index experts, Index top_k, Index size) {
  counts.parameters += experts * size;
  counts.active_parameters += top_k * size;
  counts.dense_flops += 2 * top_k * size;
}

template <class PolicySet>
constexpr void count_block(Counts& counts, PolicySet const& policies, BlockSizes const& s) {
  Index const d = s.hidden_size, a = s.attention_hidden_size;
  SharedCounts const shared = shared_counts(policies.shared_experts);
  count_router(counts, policies, {d, s.router_hidden_size, s.attention_experts - s.dormant_attention - shared.attention + s.removed_attention,
                                  s.dormant_attention, s.removed_attention});
  count_router(counts, policies, {d, s.router_hidden_size,
                                  s.feed_forward_experts - s.dormant_feed_forward - shared.feed_forward + s.removed_feed_forward,
                                  s.dormant_feed_forward, s.removed_feed_forward});
  count_experts(counts, s.attention_experts, s.attention_top_k, 2 * d * a);
  count_experts(counts, s.feed_forward_experts, s.feed_forward_top_k, 2 * d * s.feed_forward_hidden_size);
  Index const norms = 4 * d;
  counts.parameters += norms;
  counts.active_parameters += norms;
  if (s.heads != 1 || a != d) {
    Index const projections = 2 * (d * a + a);
    counts.parameters += projections;
    counts.active_parameters += projections;
    counts.dense_flops += 4 * d * a;
  }
  counts.flops_per_key += s.attention_top_k * 4 * a;
}

/// Embedding, final norm and a head of `outputs` rows.
constexpr void count_ends(Counts& counts, Index vocab_size, Index d, Index outputs) {
  counts.parameters += vocab_size * d + 2 * d + outputs * d;
  counts.active_parameters += d + 2 * d + outputs * d;
  counts.dense_flops += 2 * outputs * d;
}

}  // namespace detail

/// Counts of a static shape, a constant: mf::count<shape, Policies<>>().
template <Shape shape, class PolicySet = Policies<>>
consteval Counts count() {
  static_assert(shape.layers != dynamic && shape.hidden_size != dynamic && shape.vocab_size != dynamic &&
                    shape.attention.experts != dynamic && shape.feed_forward.experts != dynamic,
                "moduleformer: count needs a shape without dynamic extents; count a model or a Config instead");
  Counts counts;
  constexpr PolicySet policies{};
  for (Index i = 0; i < shape.layers; ++i)
    detail::count_block(counts, policies,
                        {shape.hidden_size, shape.router_hidden_size, shape.attention.experts, shape.attention.top_k,
                         shape.attention.heads, shape.attention.hidden_size, shape.feed_forward.experts,
                         shape.feed_forward.top_k, shape.feed_forward.hidden_size});
  detail::count_ends(counts, shape.vocab_size, shape.hidden_size, shape.labels == dynamic ? shape.vocab_size : shape.labels);
  return counts;
}

/// Counts of a config with the given policies; `outputs` is the head's number of rows.
template <class PolicySet>
Counts count(Config const& c, PolicySet const& policies, Index outputs) {
  Counts counts;
  for (Index i = 0; i < c.layers; ++i)
    detail::count_block(counts, policies,
                        {c.hidden_size, c.router_hidden_size, c.attention.experts[i], c.attention.top_k, c.attention.heads,
                         c.attention.hidden_size, c.feed_forward.experts[i], c.feed_forward.top_k, c.feed_forward.hidden_size,
                         c.attention.dormant[i], c.feed_forward.dormant[i], c.attention.removed[i],
                         c.feed_forward.removed[i]});
  detail::count_ends(counts, c.vocab_size, c.hidden_size, outputs);
  return counts;
}

}  // namespace moduleformer
