// SPDX-License-Identifier: MIT
#pragma once
// Gatings: policies that say how much of a chosen expert's output counts, as a function of the logits.
//   softmax             softmax(logits) over all E, of the chosen; not renormalised (arXiv 2306.04640)
//   top_k_softmax       softmax over the chosen alone; the same as softmax over all, renormalised (arXiv 1701.06538)
//   sigmoid             sigmoid of the chosen's logits
//   normalised_sigmoid  the same, divided by their sum (arXiv 2412.19437)
// Whatever the gates, routing losses and statistics see the softmax over all E.

#include <moduleformer/core/policy.hpp>
#include <moduleformer/routing/choice.hpp>

#include <string_view>
#include <utility>

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
    routing_backward(pass.backend, logits, choice.probabilities, choice.logsumexp, choice.experts, dgates, loss,
                     dlogits);
  }
};

/// Gates that are a function of the chosen experts' logits; the others have no part in them.
template <GateFunction function>
struct ChosenGates {
  using Role = role::Gating;
  static constexpr std::string_view name = function == GateFunction::chosen_softmax ? "top_k_softmax"
                                           : function == GateFunction::sigmoid      ? "sigmoid"
                                                                                    : "normalised_sigmoid";
  static constexpr bool sums_to_one = function != GateFunction::sigmoid;  // over the chosen

  template <Backend B, class A = typename B::Accumulator>
  void forward(Pass<B>& pass, Matrix<A const> logits, Choice<A> const& choice) const {
    chosen_gates(pass.backend, function, logits, choice.experts, choice.gates);
  }

  template <Backend B, class A = typename B::Accumulator>
  void backward(Pass<B>& pass, Choice<A> const& choice, Matrix<A const> logits, Matrix<A const> dgates,
                RoutingGradient loss, Matrix<A> dlogits) const {
    Vector<double> const gate_sum = std::exchange(loss.gate_sum, {});  // through these gates, not through the softmax
    routing_backward(pass.backend, logits, choice.probabilities, choice.logsumexp, choice.experts, Matrix<A const>{},
                     loss, dlogits);
    chosen_gates_backward(pass.backend, function, logits, choice.experts, choice.gates, dgates,
                          Vector<double const>(gate_sum), dlogits);
  }
};
using TopKSoftmaxGates = ChosenGates<GateFunction::chosen_softmax>;
using SigmoidGates = ChosenGates<GateFunction::sigmoid>;
using NormalisedSigmoidGates = ChosenGates<GateFunction::chosen_sigmoid>;

}  // namespace moduleformer
