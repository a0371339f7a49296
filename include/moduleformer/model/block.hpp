// SPDX-License-Identifier: MIT
#pragma once
// One pre-norm block (arXiv 2306.04640):
//   h = x + attention(norm_1(x));  out = h + feed_forward(norm_2(h))

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
    Matrix<S const> x;   // the block's input (N,D)
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

  /// x, out (N,D), different. Null routes: the routers choose.
  Context forward(Pass<B>& pass, Parameters<Values<S>> const& p, Matrix<S const> x, Vector<Sequence const> sequences,
                  KeyValueCache<S> cache, BlockRoutes given, Matrix<S> out) const {
    Index const n = x.extent(0);
    Context context{};
    context.x = x;
    context.normed_1 = pass.template allocate<S>(n, hidden_size_);
    context.norm_1 = Norm::forward(pass, p.norm_1, x, context.normed_1);
    context.h = pass.template allocate<S>(n, hidden_size_);
    context.attention = attention_.forward(pass, p.attention, context.normed_1, sequences, cache, given.attention, x, context.h);
    context.normed_2 = pass.template allocate<S>(n, hidden_size_);
    context.norm_2 = Norm::forward(pass, p.norm_2, Matrix<S const>(context.h), context.normed_2);
    context.feed_forward = feed_forward_.forward(pass, p.feed_forward, context.normed_2, given.feed_forward, context.h, out);
    return context;
  }

  /// d (N,D): on entry the gradient of `out`, on return that of x. Accumulates into the gradients.
  void backward(Pass<B>& pass, Parameters<Values<S>> const& p, Parameters<Gradients<A>> const& gradients,
                Context const& context, Vector<Sequence const> sequences, Matrix<S> d) const {
    auto const scratch = pass.scope();
    Matrix<S> const dnormed = pass.template allocate<S>(d.extent(0), hidden_size_);
    auto const flat = dnormed.reshape(dnormed.size());
    fill(pass.backend, flat, S(0));
    feed_forward_.backward(pass, p.feed_forward, gradients.feed_forward, context.feed_forward, context.normed_2, d, dnormed);
    Norm::backward(pass, p.norm_2, gradients.norm_2, context.norm_2, Matrix<S const>(context.h), Matrix<S const>(dnormed), d);
    fill(pass.backend, flat, S(0));
    attention_.backward(pass, p.attention, gradients.attention, context.attention, context.normed_1, sequences, d, dnormed);
    Norm::backward(pass, p.norm_1, gradients.norm_1, context.norm_1, context.x, Matrix<S const>(dnormed), d);
  }

 private:
  AttentionLayer attention_;
  FeedForwardLayer feed_forward_;
  Index hidden_size_;
};

}  // namespace moduleformer
