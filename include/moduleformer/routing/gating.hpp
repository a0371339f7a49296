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
template <class S>
struct Choice {
  Matrix<S> probabilities;     // (N,E)
  Vector<S> logsumexp;         // (N)
  Matrix<ExpertId> experts;    // (N,K)
  Matrix<S> gates;             // (N,K)
};

struct SoftmaxTopK {
  using Role = role::Gating;
  static constexpr std::string_view name = "softmax_top_k";

  /// `given` (N,K), if any, replaces the choice; the gates are computed all the same.
  template <Backend B, class S = typename B::Scalar>
  Choice<S> forward(Pass<B>& pass, Index k, RandomSite sampling, Matrix<S const> logits,
                    Matrix<ExpertId const> given) const {
    Index const n = logits.extent(0), e = logits.extent(1);
    Choice<S> choice{pass.template allocate<S>(n, e), pass.template allocate<S>(n),
                     pass.template allocate<ExpertId>(n, k), pass.template allocate<S>(n, k)};
    softmax(pass.backend, logits, choice.probabilities, choice.logsumexp);
    if (given) {
      copy(pass.backend, given.reshape(given.size()), choice.experts.reshape(n * k));
    } else if (pass.training && pass.settings.sampled_slots > 0) {
      sampled_top_k(pass.backend, logits, choice.probabilities, pass.settings.sampled_slots, pass.key(sampling),
                    choice.experts);
    } else {
      top_k(pass.backend, logits, choice.experts);
    }
    gather_columns(pass.backend, choice.probabilities, choice.experts, choice.gates);
    return choice;
  }

  /// dlogits (N,E) = from the gates' gradient dgates (N,K) and the routing loss's.
  template <Backend B, class S = typename B::Scalar>
  void backward(Pass<B>& pass, Choice<S> const& choice, Matrix<S const> logits, Matrix<S const> dgates,
                RoutingGradient const& loss, Matrix<S> dlogits) const {
    routing_backward(pass.backend, logits, choice.probabilities, choice.logsumexp, choice.experts, dgates, loss, dlogits);
  }
};

}  // namespace moduleformer
