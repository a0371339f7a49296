// SPDX-License-Identifier: MIT
#pragma once
// A selection that leaves slots empty: the K largest logits of a token, of which every third slot (all of every seventh
// token's) is nobody's. In host memory.

#include <moduleformer/routing/selection.hpp>

namespace moduleformer::test {

struct SomeEmpty : FixedSlots {
  using Role = role::Selection;
  static constexpr std::string_view name = "some_empty";

  template <class Access>
  struct Parameters {};
  template <class Views, class Visitor>
  constexpr void visit_parameters(Index, Views&, Visitor&) const {}

  static constexpr bool leaves_empty(bool) { return true; }

  template <Backend B, class S = typename B::Scalar, class A = typename B::Accumulator>
  void select(Pass<B>& pass, Index, Parameters<Values<S>> const&, RandomSite, Matrix<A const> logits, Matrix<A const>,
              Matrix<ExpertId> experts) const {
    top_k(pass.backend, logits, experts);
    for (Index t = 0; t < experts.extent(0); ++t)
      for (Index s = 0; s < experts.extent(1); ++s)
        if (t % 7 == 3 || (t * experts.extent(1) + s) % 3 == 1) experts(t, s) = -1;
  }
};

}  // namespace moduleformer::test
