// SPDX-License-Identifier: MIT
#pragma once
// The guard of a router that new experts joined: on tokens of old data, with the old rows frozen, the divergence of its choice
// from what it was. The old softmax q is p without the mass m that new rows took, q_e = p_e / (1 - m), so
//   KL(q || p) = sum_e q_e ln(q_e / p_e) = -ln(1 - m) = lse(all logits) - lse(old logits),  d / d logit_e = p_e - [e is old] q_e
// A pass with a guard has it in place of the routing loss: its mean over the tokens.

#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/tensor_view.hpp>
#include <moduleformer/core/types.hpp>

#include <cmath>

namespace moduleformer::detail {

/// Token t of logits (N,E), of which the first `old` are old rows.
template <class A>
struct GuardValue {
  Index experts;
  Index old;
  A const* logits;
  A const* logsumexp;      // (N) of all
  A* old_logsumexp;        // (N) =
  A* divergence;           // (N) =
  MODULEFORMER_HOST_DEVICE void operator()(Index t) const {
    A const* const row = logits + t * experts;
    A largest = row[0], sum = 0;
    for (Index e = 1; e < old; ++e) largest = row[e] > largest ? row[e] : largest;
    for (Index e = 0; e < old; ++e) sum += std::exp(row[e] - largest);
    old_logsumexp[t] = largest + std::log(sum);
    divergence[t] = logsumexp[t] - old_logsumexp[t];
  }
};

/// *mean = sum / tokens.
template <class A>
struct GuardMean {
  A const* sum;
  double tokens;
  double* mean;
  MODULEFORMER_HOST_DEVICE void operator()() const { *mean = static_cast<double>(*sum) / tokens; }
};

/// Element i of dlogits (N,E) +=.
template <class A>
struct GuardGradient {
  Index experts;
  Index old;
  double const* weight;
  double tokens;
  A const* logits;
  A const* probabilities;
  A const* old_logsumexp;
  A* dlogits;
  MODULEFORMER_HOST_DEVICE void operator()(Index i) const {
    Index const t = i / experts, e = i % experts;
    A const before = e < old ? std::exp(logits[i] - old_logsumexp[t]) : A(0);
    dlogits[i] += static_cast<A>(*weight / tokens) * (probabilities[i] - before);
  }
};

}  // namespace moduleformer::detail
