// SPDX-License-Identifier: MIT
#pragma once
// Shared experts (arXiv 2401.06066): the first S experts of a layer serve every token, with gate 1, in the first S of its K
// slots. The router has logits for the E - S others, the routed ones, and chooses K - S of them; gates, losses and
// statistics are of these alone. Policies of role SharedExperts:
//   none    S = 0, as published
//   shared  S for each kind of layer: SharedExperts<1, 2>, or numbers that are set at run time

#include <moduleformer/backend/arguments.hpp>
#include <moduleformer/core/dynamic_policy.hpp>
#include <moduleformer/core/error.hpp>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/shape.hpp>

#include <string_view>
#include <type_traits>

namespace moduleformer {

namespace detail {

/// A number of a policy that its type fixes: it is N whatever it is made of.
template <Index N>
struct FixedNumber {
  constexpr FixedNumber() = default;
  constexpr explicit FixedNumber(double) {}
  constexpr operator Index() const { return N; }
};
template <Index N>
using NumberOr = std::conditional_t<N == dynamic, Index, FixedNumber<N>>;

}  // namespace detail

/// S of each kind of layer.
struct SharedCounts {
  Index attention = 0;
  Index feed_forward = 0;

  /// Throws Error unless both are fewer than the experts of a token.
  void check(Index attention_top_k, Index feed_forward_top_k) const {
    auto const check_one = [](char const* which, Index shared, char const* key, Index top_k) {
      expects(shared >= 0 && shared < top_k, "shared_experts: ", which, ": expected 0 to ", top_k - 1, ", fewer than ",
              key, ", found ", shared);
    };
    check_one("attention", attention, "k_att", attention_top_k);
    check_one("feed_forward", feed_forward, "k_mlp", feed_forward_top_k);
  }
};

struct NoSharedExperts {
  using Role = role::SharedExperts;
  static constexpr std::string_view name = "none";
  static constexpr SharedCounts known{};
  static constexpr Index attention = 0, feed_forward = 0;
};

template <Index in_attention = dynamic, Index in_feed_forward = in_attention>
struct SharedExperts {
  using Role = role::SharedExperts;
  static constexpr std::string_view name = "shared";
  static constexpr SharedCounts known{in_attention, in_feed_forward};
  static_assert((in_attention == dynamic || in_attention >= 0) && (in_feed_forward == dynamic || in_feed_forward >= 0),
                "moduleformer: SharedExperts needs numbers from 0, or mf::dynamic");

  detail::NumberOr<in_attention> attention{1};        // S of attention layers
  detail::NumberOr<in_feed_forward> feed_forward{1};  // S of feed-forward layers

  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& visit) {
    visit("attention", self.attention);
    visit("feed_forward", self.feed_forward);
  }
};

namespace detail {

/// What the type says; mf::dynamic where it does not.
template <class Policy>
constexpr SharedCounts known_shared_counts() {
  if constexpr (requires { Policy::known; }) return Policy::known;
  else return {dynamic, dynamic};
}
/// Of so many experts, or of top_k.
constexpr Index routed(Index all, Index shared) { return both_known(all, shared) ? all - shared : dynamic; }

}  // namespace detail

/// Compile-time complaints, one sentence each.
template <Shape shape, class Policy>
constexpr void check_shared_experts() {
  constexpr SharedCounts known = detail::known_shared_counts<Policy>();
  static_assert(!detail::both_known(known.attention, shape.attention.top_k) || known.attention < shape.attention.top_k,
                "moduleformer: the shared experts of attention must be fewer than attention.top_k");
  static_assert(!detail::both_known(known.feed_forward, shape.feed_forward.top_k) ||
                    known.feed_forward < shape.feed_forward.top_k,
                "moduleformer: the shared experts of feed_forward must be fewer than feed_forward.top_k");
}

template <class Policy>
constexpr SharedCounts shared_counts(Policy const& policy) {
  return with_policy(policy, [](auto const& shared) -> SharedCounts {
    return {shared.attention, shared.feed_forward};
  });
}

namespace detail {

/// Slot i of a layer, from what was chosen among its routed experts, (N, slots - S).
template <class A>
struct PrependShared {
  Index shared;  // S
  Index slots;
  ExpertId const* routed;
  A const* routed_gates;
  ExpertId* experts;  // (N, slots)
  A* gates;
  MODULEFORMER_HOST_DEVICE void operator()(Index i) const {
    Index const t = i / slots, s = i % slots, from = t * (slots - shared) + s - shared;
    experts[i] = static_cast<ExpertId>(s < shared ? s : routed[from] < 0 ? -1 : routed[from] + shared);
    gates[i] = s < shared ? A(1) : routed_gates[from];
  }
};

/// Element i of the routed experts' part (N, slots - S) of what a layer has for all its slots; ids count from S.
template <class T>
struct TakeRouted {
  Index shared;
  Index slots;
  T const* all;  // (N, slots)
  T* routed;
  MODULEFORMER_HOST_DEVICE void operator()(Index i) const {
    Index const width = slots - shared;
    T const value = all[i / width * slots + shared + i % width];
    routed[i] = std::is_same_v<T, ExpertId> && value >= T(0) ? static_cast<T>(value - static_cast<T>(shared)) : value;
  }
};

}  // namespace detail

}  // namespace moduleformer
