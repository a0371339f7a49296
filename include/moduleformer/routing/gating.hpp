// SPDX-License-Identifier: MIT
#pragma once
// Gatings: policies that say how much of a chosen expert's output counts, as a function of the logits.
//   softmax   gate = softmax(logits) over all E, of the chosen; not renormalised (arXiv 2306.04640)

#include <moduleformer/core/policy.hpp>
#include <moduleformer/routing/choice.hpp>

namespace moduleformer {

struct SoftmaxGates {
  using Role = role::Gating;
  static constexpr std::string_view name = "softmax";

  /// choice.gates (N,K) =, from the logits (N,E) and what else was chosen.
  template <Backend B, class A = typename B::Accumulator>
  void forward(Pass<B>& pass, Matrix<A const>, Choice<A> const& choice) const {
    gather_columns(pass.backend, choice.probabilities, choice.experts, choice.gates);
  }

  /// dlogits (N,E) =, from the gates' gradient dgates (N,K) and the routing loss's.
  template <Backend B, class A = typename B::Accumulator>
  void backward(Pass<B>& pass, Choice<A> const& choice, Matrix<A const> logits, Matrix<A const> dgates,
                RoutingGradient const& loss, Matrix<A> dlogits) const {
    routing_backward(pass.backend, logits, choice.probabilities, choice.logsumexp, choice.experts, dgates, loss, dlogits);
  }
};

}  // namespace moduleformer
