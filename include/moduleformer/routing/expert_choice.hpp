// SPDX-License-Identifier: MIT
#pragma once
// ExpertChoice (arXiv 2202.09368): in training each of E experts takes the C = ceil(capacity * N K / E) tokens of the pass
// with its largest probabilities, so every expert takes the same load, and a token has as many experts as took it, none
// perhaps (with a bound on their number, it keeps those of largest probability). An expert's choice looks at later tokens,
// which no generation can: evaluation and generation use the top-k of the same probabilities. So it serves comparisons, and
// a model trained with it is another one when it is used.

#include <moduleformer/core/error.hpp>
#include <moduleformer/routing/selection.hpp>

#include <algorithm>
#include <cmath>

namespace moduleformer {

struct ExpertChoice : FixedSlots {
  using Role = role::Selection;
  static constexpr std::string_view name = "expert_choice";
  double capacity = 1;     // of each expert, in mean loads
  Index most_experts =
      0;  // of a token, those of largest probability; 0, or more than E: no bound, with memory for all E

  template <class Access>
  struct Parameters {};

  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& visit) {
    visit("capacity", self.capacity);
    visit("most_experts", self.most_experts);
  }
  template <class Views, class Visitor>
  constexpr void visit_parameters(Index /*experts*/, Views&, Visitor&) const {}
  void check(Index /*top_k*/, Index /*experts*/) const {
    expects(capacity > 0 && capacity < 1e6, "expert_choice: capacity: expected a number above 0 and below 1e6, found ",
            capacity);
    expects(most_experts >= 0, "expert_choice: most_experts: expected a number from 0, found ", most_experts);
  }

  [[nodiscard]] Index slots(Index top_k, Index experts, bool training) const {
    if (!training) return top_k;
    return most_experts == 0 ? experts : std::min(most_experts, experts);
  }
  static constexpr bool leaves_empty(bool training) { return training; }

  /// experts (N,K) =, in training (N, slots) with -1 for none.
  template <Backend B, class S = typename B::Scalar, class A = typename B::Accumulator>
  void select(Pass<B>& pass, Index top_k_of_token, Parameters<Values<S>> const&, RandomSite, Matrix<A const> logits,
              Matrix<A const> probabilities, Matrix<ExpertId> experts) const {
    if (!pass.training) return top_k(pass.backend, logits, experts);
    Index const n = logits.extent(0), e = logits.extent(1);
    double const share = capacity * static_cast<double>(n * top_k_of_token) / static_cast<double>(e);
    expert_choice(pass.backend, probabilities, std::min(n, static_cast<Index>(std::ceil(share))), experts);
  }
};

}  // namespace moduleformer
