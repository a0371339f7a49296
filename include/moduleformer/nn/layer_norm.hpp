// SPDX-License-Identifier: MIT
#pragma once
// LayerNorm over the last dimension, the norm of the published model:
//   y = (x - mean) / sqrt(var + eps) * weight + bias,  var biased, eps 1e-5.

#include <moduleformer/core/policy.hpp>
#include <moduleformer/nn/combination.hpp>
#include <moduleformer/nn/parameters.hpp>
#include <moduleformer/nn/pass.hpp>

namespace moduleformer {

struct LayerNorm {
  using Role = role::Norm;
  static constexpr std::string_view name = "layer_norm";
  static constexpr double epsilon = 1e-5;

  template <class Access>
  struct Parameters {
    typename Access::template View<1> weight;  // (D)
    typename Access::template View<1> bias;    // (D)
  };

  /// What backward needs beside the input.
  template <class B>
  struct Context {
    using A = typename B::Accumulator;
    Vector<A> mean;              // (N)
    Vector<A> inverse_deviation; // (N)
  };

  template <class Views, class Visitor>
  static constexpr void visit_parameters(Index hidden_size, Views& p, Visitor& visit) {
    visit("weight", p.weight, Initial::one, hidden_size);
    visit("bias", p.bias, Initial::zero, hidden_size);
  }

  /// x, y (N,D).
  template <Backend B, class S = typename B::Scalar, class A = typename B::Accumulator>
  static Context<B> forward(Pass<B>& pass, Parameters<Values<S>> const& p, Matrix<S const> x, Matrix<S> y) {
    Index const n = x.extent(0);
    Context<B> context{pass.template allocate<A>(n), pass.template allocate<A>(n)};
    layer_norm(pass.backend, x, p.weight, p.bias, epsilon, y, context.mean, context.inverse_deviation);
    return context;
  }

  /// Accumulates into dx (N,D) and the gradients.
  template <Backend B, class S = typename B::Scalar, class A = typename B::Accumulator>
  static void backward(Pass<B>& pass, Parameters<Values<S>> const& p, Parameters<Gradients<A>> const& gradients,
                       Context<B> const& context, Matrix<S const> x, Matrix<S const> dy, Matrix<S> dx) {
    layer_norm_backward(pass.backend, dy, x, p.weight, context.mean, context.inverse_deviation, dx, gradients.weight,
                        gradients.bias);
  }

  /// x = the sum; y as above.
  template <Backend B, class S = typename B::Scalar, class A = typename B::Accumulator>
  static Context<B> forward_combined(Pass<B>& pass, Parameters<Values<S>> const& p, Combination<S> const& sum,
                                     Matrix<S> x, Matrix<S> y) {
    Index const n = x.extent(0);
    Context<B> context{pass.template allocate<A>(n), pass.template allocate<A>(n)};
    combine_layer_norm(pass.backend, sum.slots, sum.y, sum.dropout, sum.residual, p.weight, p.bias, epsilon, x, y,
                       context.mean, context.inverse_deviation);
    return context;
  }

  /// dy is a sum without dropout.
  template <Backend B, class S = typename B::Scalar, class A = typename B::Accumulator>
  static void backward_combined(Pass<B>& pass, Parameters<Values<S>> const& p,
                                Parameters<Gradients<A>> const& gradients, Context<B> const& context, Matrix<S const> x,
                                Combination<S> const& dy, Matrix<S> dx) {
    combine_layer_norm_backward(pass.backend, dy.slots, dy.y, dy.residual, x, p.weight, context.mean,
                                context.inverse_deviation, dx, gradients.weight, gradients.bias);
  }
};

}  // namespace moduleformer
