// SPDX-License-Identifier: MIT
#pragma once
// One pre-norm block (arXiv 2306.04640):
//   h = x + attention(norm_1(x));  out = h + feed_forward(norm_2(h))
// Each norm adds up what the layer before it left (nn/combination.hpp): norm_1 makes x of what the previous block left,
// norm_2 makes h; the sum for out is left to the next block, or to the final norm.

#include <moduleformer/routing/attention.hpp>
#include <moduleformer/routing/feed_forward.hpp>

namespace moduleformer {

/// Chosen experts of one block's two routers, (N,K) each.
struct BlockRoutes {
  Matrix<ExpertId const> attention;
  Matrix<ExpertId const> feed_forward;
};

template <class Policies, Backend B>
class Block {
 public:
  using S = typename B::Scalar;
  using A = typename B::Accumulator;
  using Norm = typename Policies::Norm;
  using AttentionLayer = Attention<Policies, B>;
  using FeedForwardLayer = FeedForward<Policies, B>;

  template <class Access>
  struct Parameters {
    typename Norm::template Parameters<Access> norm_1;
    typename AttentionLayer::template Parameters<Access> attention;
    typename Norm::template Parameters<Access> norm_2;
    typename FeedForwardLayer::template Parameters<Access> feed_forward;
  };
  struct Context {
    Matrix<S> x;         // the block's input (N,D)
    Matrix<S> normed_1;  // norm_1(x)
    typename Norm::template Context<B> norm_1;
    typename AttentionLayer::Context attention;
    Matrix<S> h;
    Matrix<S> normed_2;  // norm_2(h)
    typename Norm::template Context<B> norm_2;
    typename FeedForwardLayer::Context feed_forward;
  };

  constexpr Block(AttentionLayer attention, FeedForwardLayer feed_forward, Index hidden_size)
      : attention_(attention), feed_forward_(feed_forward), hidden_size_(hidden_size) {}

  template <class Views, class Visitor>
  constexpr void visit_parameters(Views& p, Visitor& visit) const {
    visit.inside("ln_1.", [&] { Norm::visit_parameters(hidden_size_, p.norm_1, visit); });
    visit.inside("attn.", [&] { attention_.visit_parameters(p.attention, visit); });
    visit.inside("ln_2.", [&] { Norm::visit_parameters(hidden_size_, p.norm_2, visit); });
    visit.inside("mlpf.", [&] { feed_forward_.visit_parameters(p.feed_forward, visit); });
  }

  [[nodiscard]] AttentionLayer const& attention() const { return attention_; }
  [[nodiscard]] FeedForwardLayer const& feed_forward() const { return feed_forward_; }

  /// Memory that outlives a forward's own: of the sums (N,D), and of what layers leave for each slot, (N K,D) for the
  /// most slots, used by one after the other.
  struct Places {
    Matrix<S> x;
    Matrix<S> h;
    Matrix<S> slots;
  };

  /// `in` is what x is the sum of; *out becomes what the block's output is the sum of (null: not wanted, only what
  /// backward needs). Null routes: the routers choose.
  Context forward(Pass<B>& pass, Parameters<Values<S>> const& p, Combination<S> in, Places const& places,
                  Vector<Sequence const> sequences, KeyValueCache<S> cache, BlockRoutes given,
                  Combination<S>* out) const {
    Index const n = places.x.extent(0);
    Context context{};
    context.x = places.x;
    context.normed_1 = pass.template allocate<S>(n, hidden_size_);
    context.norm_1 = combine_and_norm<Norm>(pass, p.norm_1, in, places.x, context.normed_1);
    Matrix<S> y = slots_of(pass, attention_, places.slots, n);
    context.attention = attention_.forward(pass, p.attention, context.normed_1, sequences, cache, given.attention, y);
    context.h = places.h;
    context.normed_2 = pass.template allocate<S>(n, hidden_size_);
    context.norm_2 =
        combine_and_norm<Norm>(pass, p.norm_2, attention_.output(pass, places.x, y), places.h, context.normed_2);
    y = out != nullptr ? slots_of(pass, feed_forward_, places.slots, n) : Matrix<S>{};
    context.feed_forward = feed_forward_.forward(pass, p.feed_forward, context.normed_2, given.feed_forward, y);
    if (out != nullptr) *out = feed_forward_.output(pass, places.h, y);
    return context;
  }

  /// d (N,D): on entry the gradient of the output, on return that of x. `slots` as in Places. Accumulates into the
  /// gradients.
  void backward(Pass<B>& pass, Parameters<Values<S>> const& p, Parameters<Gradients<A>> const& gradients,
                Context const& context, Vector<Sequence const> sequences, Matrix<S> slots, Matrix<S> d) const {
    auto const scratch = pass.scope();
    Index const n = d.extent(0);
    Matrix<S> const dnormed = pass.template allocate<S>(n, hidden_size_);
    Combination<S> sum = feed_forward_.backward(pass, p.feed_forward, gradients.feed_forward, context.feed_forward,
                                                context.normed_2, d, dnormed, slots_of(pass, feed_forward_, slots, n));
    combine_and_norm_backward<Norm>(pass, p.norm_2, gradients.norm_2, context.norm_2, Matrix<S const>(context.h), sum,
                                    d);
    sum = attention_.backward(pass, p.attention, gradients.attention, context.attention, context.normed_1, sequences, d,
                              dnormed, slots_of(pass, attention_, slots, n));
    combine_and_norm_backward<Norm>(pass, p.norm_1, gradients.norm_1, context.norm_1, Matrix<S const>(context.x), sum,
                                    d);
  }

 private:
  template <class Layer>
  static Matrix<S> slots_of(Pass<B> const& pass, Layer const& layer, Matrix<S> slots, Index n) {
    return slots.rows(0, n * layer.router().slots(pass.training));
  }

  AttentionLayer attention_;
  FeedForwardLayer feed_forward_;
  Index hidden_size_;
};

}  // namespace moduleformer
