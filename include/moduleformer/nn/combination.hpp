// SPDX-License-Identifier: MIT
#pragma once
// A sum over a token's experts that is not carried out yet,
//   x[t] = residual[t] + dropout(sum_s y[t*slots+s]),
// which is how a layer hands on its output, and, backward, the gradient of its input. The norm that reads it adds it
// up: in one pass over memory if it can (FusesCombination), else by the backend's combine first.

#include <moduleformer/nn/parameters.hpp>
#include <moduleformer/nn/pass.hpp>

namespace moduleformer {

template <class S>
struct Combination {
  Matrix<S const> residual;  // (N,D)
  Index slots = 0;           // K; 0: nothing is to be added
  Matrix<S const> y{};       // (N K,D)
  Dropout dropout{};
};

/// Norms with forward_combined and backward_combined: forward and backward that take a Combination for x and for dy,
/// and give the same results.
template <class Norm, class B>
concept FusesCombination =
    requires(Pass<B>& pass, typename Norm::template Parameters<Values<typename B::Scalar>> const& p,
             Combination<typename B::Scalar> const& sum,
             Matrix<typename B::Scalar> x) { Norm::forward_combined(pass, p, sum, x, x); };

/// x (N,D) = the sum, which is the residual itself where nothing is to be added; y (N,D) = norm(x).
template <class Norm, Backend B, class S = typename B::Scalar>
typename Norm::template Context<B> combine_and_norm(Pass<B>& pass,
                                                    typename Norm::template Parameters<Values<S>> const& p,
                                                    Combination<S> const& sum, Matrix<S> x, Matrix<S> y) {
  if (sum.slots == 0) return Norm::forward(pass, p, sum.residual, y);
  if constexpr (FusesCombination<Norm, B>) {
    return Norm::forward_combined(pass, p, sum, x, y);
  } else {
    combine(pass.backend, sum.slots, sum.y, sum.dropout, sum.residual, x);
    return Norm::forward(pass, p, Matrix<S const>(x), y);
  }
}

/// From x and what dy is the sum of; accumulates into dx (N,D) and the gradients.
template <class Norm, Backend B, class S = typename B::Scalar, class A = typename B::Accumulator>
void combine_and_norm_backward(Pass<B>& pass, typename Norm::template Parameters<Values<S>> const& p,
                               typename Norm::template Parameters<Gradients<A>> const& gradients,
                               typename Norm::template Context<B> const& context, Matrix<S const> x,
                               Combination<S> const& dy, Matrix<S> dx) {
  if constexpr (FusesCombination<Norm, B>) {
    Norm::backward_combined(pass, p, gradients, context, x, dy, dx);
  } else {
    auto const scratch = pass.scope();
    Matrix<S> const sum = pass.template allocate<S>(dx.extent(0), dx.extent(1));
    combine(pass.backend, dy.slots, dy.y, dy.dropout, dy.residual, sum);
    Norm::backward(pass, p, gradients, context, x, Matrix<S const>(sum), dx);
  }
}

}  // namespace moduleformer
