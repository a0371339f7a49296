// SPDX-License-Identifier: MIT
#pragma once
// Gating: from a router's logits (N,E) to chosen experts and their gates (N,K).
// SoftmaxTopK, as published: probs = softmax over all E; the K largest logits, descending, ties to the
// lowest expert; gates = those probabilities, not renormalised. In training the last `sampled_slots`
// of the K are drawn without replacement from probs + 1e-6 instead.

#include <moduleformer/core/policy.hpp>
#include <moduleformer/nn/pass.hpp>

namespace moduleformer {

/// What a gating policy leaves for the layer, the losses and backward.
template <class A>
struct Choice {
  Matrix<A> probabilities;     // (N,E)
  Vector<A> logsumexp;         // (N)
  Matrix<ExpertId> experts;    // (N,K)
  Matrix<A> gates;             // (N,K)
};

struct SoftmaxTopK {
  using Role = role::Gating;
  static constexpr std::string_view name = "softmax_top_k";

  /// `given` (N,K), if any, replaces the choice; the gates are computed all the same.
  template <Backend B, class A = typename B::Accumulator>
  Choice<A> forward(Pass<B>& pass, Index k, RandomSite sampling, Matrix<A const> logits,
                    Matrix<ExpertId const> given) const {
    Index const n = logits.extent(0), e = logits.extent(1);
    Choice<A> choice{pass.template allocate<A>(n, e), pass.template allocate<A>(n),
                     pass.template allocate<ExpertId>(n, k), pass.template allocate<A>(n, k)};
    softmax(pass.backend, logits, choice.probabilities, choice.logsumexp);
    if (given) {
      copy(pass.backend, given.reshape(given.size()), choice.experts.reshape(n * k));
    } else if (pass.training && pass.settings.sampled_slots > 0) {
      sampled_top_k(pass.backend, logits, choice.probabilities, pass.settings.sampled_slots, pass.random(sampling),
                    choice.experts);
    } else {
      top_k(pass.backend, logits, choice.experts);
    }
    gather_columns(pass.backend, choice.probabilities, choice.experts, choice.gates);
    return choice;
  }

  /// dlogits (N,E) = from the gates' gradient dgates (N,K) and the routing loss's.
  template <Backend B, class A = typename B::Accumulator>
  void backward(Pass<B>& pass, Choice<A> const& choice, Matrix<A const> logits, Matrix<A const> dgates,
                RoutingGradient const& loss, Matrix<A> dlogits) const {
    routing_backward(pass.backend, logits, choice.probabilities, choice.logsumexp, choice.experts, dgates, loss, dlogits);
  }
};

}  // namespace moduleformer
