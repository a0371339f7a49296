// SPDX-License-Identifier: MIT
#pragma once
// The sizes of a model as a structural constant, so that a model is a type. An extent is a number
// or mf::dynamic, which the constructor then takes from a Config; the code below sees one Extent.

#include <moduleformer/core/error.hpp>
#include <moduleformer/core/types.hpp>

#include <string_view>

namespace moduleformer {

/// An extent that is known only when the model is constructed.
inline constexpr Index dynamic = -1;

/// Sizes of an attention layer: E experts of which K are chosen for a token, each with H heads that
/// share the attention hidden size A (d = A/H).
struct AttentionShape {
  Index experts = dynamic;
  Index top_k = dynamic;
  Index heads = dynamic;
  Index hidden_size = dynamic;
  friend constexpr bool operator==(AttentionShape const&, AttentionShape const&) = default;
};

/// Sizes of a feed-forward layer: E experts of width F, of which K are chosen for a token.
struct FeedForwardShape {
  Index experts = dynamic;
  Index top_k = dynamic;
  Index hidden_size = dynamic;
  friend constexpr bool operator==(FeedForwardShape const&, FeedForwardShape const&) = default;
};

/// All sizes of a model.
struct Shape {
  Index vocab_size = dynamic;          // V
  Index hidden_size = dynamic;         // D
  Index layers = dynamic;              // L
  Index router_hidden_size = dynamic;  // R, of routers that have a hidden layer
  AttentionShape attention{};
  FeedForwardShape feed_forward{};
  Index labels = dynamic;  // outputs of a classifier; a language model has none
  friend constexpr bool operator==(Shape const&, Shape const&) = default;
};

/// Every extent from the Config.
inline constexpr Shape dynamic_shape{};

/// An extent known to the compiler.
template <Index N>
class Extent {
 public:
  constexpr Extent() = default;
  /// Checks that the run-time value is the static one.
  constexpr Extent(std::string_view name, Index value) {
    if (value != N) fail<Error>(name, ": the model's type says ", N, ", the config says ", value);
  }
  constexpr operator Index() const { return N; }
};

/// An extent known at run time.
template <>
class Extent<dynamic> {
 public:
  constexpr Extent() = default;
  constexpr Extent(std::string_view, Index value) : value_(value) {}
  constexpr operator Index() const { return value_; }

 private:
  Index value_ = 0;
};

namespace detail {
constexpr bool positive_or_dynamic(Index n) { return n == dynamic || n > 0; }
constexpr bool both_known(Index a, Index b) { return a != dynamic && b != dynamic; }
}  // namespace detail

/// Compile-time complaints about a shape, one sentence each.
template <Shape shape>
constexpr void check_shape() {
  using detail::both_known, detail::positive_or_dynamic;
  constexpr auto a = shape.attention;
  constexpr auto f = shape.feed_forward;
  static_assert(positive_or_dynamic(shape.vocab_size), "moduleformer: vocab_size must be positive or mf::dynamic");
  static_assert(positive_or_dynamic(shape.hidden_size), "moduleformer: hidden_size must be positive or mf::dynamic");
  static_assert(positive_or_dynamic(shape.layers), "moduleformer: layers must be positive or mf::dynamic");
  static_assert(positive_or_dynamic(a.experts) && positive_or_dynamic(a.top_k) && positive_or_dynamic(a.heads) &&
                    positive_or_dynamic(a.hidden_size),
                "moduleformer: every extent of attention must be positive or mf::dynamic");
  static_assert(positive_or_dynamic(f.experts) && positive_or_dynamic(f.top_k) && positive_or_dynamic(f.hidden_size),
                "moduleformer: every extent of feed_forward must be positive or mf::dynamic");
  static_assert(!both_known(a.top_k, a.experts) || a.top_k <= a.experts,
                "moduleformer: attention.top_k must not exceed attention.experts");
  static_assert(!both_known(f.top_k, f.experts) || f.top_k <= f.experts,
                "moduleformer: feed_forward.top_k must not exceed feed_forward.experts");
  static_assert(!both_known(a.hidden_size, a.heads) || a.hidden_size % a.heads == 0,
                "moduleformer: attention.heads must divide attention.hidden_size");
}

}  // namespace moduleformer
