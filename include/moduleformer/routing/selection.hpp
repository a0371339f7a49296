// SPDX-License-Identifier: MIT
#pragma once
// Selections: policies that choose K experts for each token from its logits (N,E).
//   top_k   the K largest, descending, ties to the lowest expert (arXiv 2306.04640); in training the last
//           `Settings::sampled_slots` of them are drawn without replacement from probs + 1e-6 instead
//   gumbel_top_k  in training by logits + scale * Gumbel noise: K experts drawn without replacement, at scale 1 in
//           proportion to their probabilities (arXiv 1903.06059); in evaluation as top_k
// A selection has Parameters (often none), visit_parameters and select.

#include <moduleformer/core/policy.hpp>
#include <moduleformer/nn/parameters.hpp>
#include <moduleformer/nn/pass.hpp>

namespace moduleformer {

struct TopK {
  using Role = role::Selection;
  static constexpr std::string_view name = "top_k";

  template <class Access>
  struct Parameters {};

  template <class Views, class Visitor>
  constexpr void visit_parameters(Index /*experts*/, Views&, Visitor&) const {}

  /// experts (N,K) =, from logits and probabilities (N,E).
  template <Backend B, class S = typename B::Scalar, class A = typename B::Accumulator>
  void select(Pass<B>& pass, Parameters<Values<S>> const&, RandomSite site, Matrix<A const> logits,
              Matrix<A const> probabilities, Matrix<ExpertId> experts) const {
    if (pass.training && pass.settings.sampled_slots > 0)
      sampled_top_k(pass.backend, logits, probabilities, pass.settings.sampled_slots, pass.random(site), experts);
    else
      top_k(pass.backend, logits, experts);
  }
};

struct GumbelTopK {
  using Role = role::Selection;
  static constexpr std::string_view name = "gumbel_top_k";
  double scale = 1;

  template <class Access>
  struct Parameters {};

  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& visit) {
    visit("scale", self.scale);
  }
  template <class Views, class Visitor>
  constexpr void visit_parameters(Index /*experts*/, Views&, Visitor&) const {}

  template <Backend B, class S = typename B::Scalar, class A = typename B::Accumulator>
  void select(Pass<B>& pass, Parameters<Values<S>> const&, RandomSite site, Matrix<A const> logits, Matrix<A const>,
              Matrix<ExpertId> experts) const {
    if (!pass.training) return top_k(pass.backend, logits, experts);
    auto const scratch = pass.scope();
    Matrix<A> const scores = pass.template allocate<A>(logits.extent(0), logits.extent(1));
    gumbel_scores(pass.backend, scale, pass.random(site), logits, scores);
    top_k(pass.backend, Matrix<A const>(scores), experts);
  }
};

}  // namespace moduleformer
