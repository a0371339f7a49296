// SPDX-License-Identifier: MIT
#pragma once
// Gates of the chosen experts of one token as a function of their logits l_s, and the gradient; on any backend.
//   chosen_softmax   g_s = exp(l_s) / sum_r exp(l_r)   over the chosen, which is softmax over all E, renormalised
//   sigmoid          g_s = sigmoid(l_s)
//   chosen_sigmoid   g_s = sigmoid(l_s) / sum_r sigmoid(l_r)   (arXiv 2412.19437)
// A slot without expert (id < 0), or with one whose logit is -infinity, has gate 0 and no gradient.

#include <moduleformer/backend/arguments.hpp>
#include <moduleformer/core/math.hpp>
#include <moduleformer/core/platform.hpp>

namespace moduleformer::detail {

/// gates (K) =, from a token's logits (E) and its chosen experts (K).
template <class A>
MODULEFORMER_HOST_DEVICE inline void row_gates(GateFunction function, A const* logits, ExpertId const* ids, Index k, A* gates) {
  A const lowest = -static_cast<A>(__builtin_huge_val());
  A largest = lowest;
  for (Index s = 0; s < k; ++s)
    if (ids[s] >= 0 && logits[ids[s]] > largest) largest = logits[ids[s]];
  A sum = 0;
  for (Index s = 0; s < k; ++s) {
    A gate = 0;
    if (ids[s] >= 0 && logits[ids[s]] != lowest)
      gate = function == GateFunction::chosen_softmax ? math::exp(logits[ids[s]] - largest) : math::sigmoid(logits[ids[s]]);
    gates[s] = gate;
    sum += gate;
  }
  if (function == GateFunction::sigmoid || sum == 0) return;
  for (Index s = 0; s < k; ++s) gates[s] /= sum;
}

/// dlogits (E) += what the gates' gradient dgates (K, or null) and that of each expert's summed gates (E, or null) give.
template <class A>
MODULEFORMER_HOST_DEVICE inline void add_row_gates_gradient(GateFunction function, A const* logits, ExpertId const* ids,
                                                            A const* gates, A const* dgates, double const* gate_sum, Index k,
                                                            A* dlogits) {
  auto const slope = [=](Index s) {
    double const by_sum = gate_sum != nullptr ? gate_sum[ids[s]] : 0;
    return (dgates != nullptr ? static_cast<double>(dgates[s]) : 0) + by_sum;
  };
  double dot = 0;
  if (function != GateFunction::sigmoid)
    for (Index s = 0; s < k; ++s)
      if (ids[s] >= 0) dot += static_cast<double>(gates[s]) * slope(s);
  for (Index s = 0; s < k; ++s) {
    if (ids[s] < 0) continue;
    double const gate = static_cast<double>(gates[s]);
    double change = gate * (slope(s) - dot);
    if (function != GateFunction::chosen_softmax) change *= 1 - static_cast<double>(math::sigmoid(logits[ids[s]]));
    dlogits[ids[s]] += static_cast<A>(change);
  }
}

}  // namespace moduleformer::detail
