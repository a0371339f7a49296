// SPDX-License-Identifier: MIT
#pragma once
// Selections: policies that choose K experts for each token from its logits (N,E).
//   top_k   the K largest, descending, ties to the lowest expert (arXiv 2306.04640); in training the last
//           `Settings::sampled_slots` of them are drawn without replacement from probs + 1e-6 instead
//   gumbel_top_k  in training by logits + scale * Gumbel noise: K experts drawn without replacement, at scale 1 in
//           proportion to their probabilities (arXiv 1903.06059); in evaluation as top_k
//   biased_top_k  by sigmoid(logit) + b_e, with gates that know nothing of b; after each training step
//           b_e += rate * sign(mean count - count_e), counted over all its micro-batches: load is balanced without
//           a loss (arXiv 2408.15664). b is a tensor of the model; where products read rounded copies, so does the choice
// A selection has Parameters (often none), visit_parameters, select, and the number of a token's slots, which in training
// may differ and of which some may stay empty (expert -1): slots, leaves_empty; and check, restrict. FixedSlots is a base with
// those of K experts for every token.

#include <moduleformer/core/error.hpp>
#include <moduleformer/core/policy.hpp>
#include <moduleformer/nn/parameters.hpp>
#include <moduleformer/nn/pass.hpp>
#include <moduleformer/routing/routing_totals.hpp>

namespace moduleformer {

/// Base of selections that choose exactly K experts for every token.
struct FixedSlots {
  static constexpr Index slots(Index top_k, Index /*experts*/, bool /*training*/) { return top_k; }
  static constexpr bool leaves_empty(bool /*training*/) { return false; }
  /// Throws Error for numbers of the policy that do not fit.
  constexpr void check(Index /*top_k*/, Index /*experts*/) const {}
  /// Excludes experts before anything is made of the logits.
  template <class P, class M>
  void restrict(P&, Index /*top_k*/, RandomSite, M) const {}
};

struct TopK : FixedSlots {
  using Role = role::Selection;
  static constexpr std::string_view name = "top_k";
  static constexpr bool samples_slots = true;
  static constexpr bool chooses_by_logits = true;  // so that -infinity excludes an expert

  template <class Access>
  struct Parameters {};

  template <class Views, class Visitor>
  constexpr void visit_parameters(Index /*experts*/, Views&, Visitor&) const {}

  /// experts (N, slots) =, from logits and probabilities (N,E); K experts of a token are wanted, on average.
  template <Backend B, class S = typename B::Scalar, class A = typename B::Accumulator>
  void select(Pass<B>& pass, Index /*top_k*/, Parameters<Values<S>> const&, RandomSite site, Matrix<A const> logits,
              Matrix<A const> probabilities, Matrix<ExpertId> experts) const {
    if (pass.training && pass.settings.sampled_slots > 0)
      sampled_top_k(pass.backend, logits, probabilities, pass.settings.sampled_slots, pass.random(site), experts);
    else
      top_k(pass.backend, logits, experts);
  }
};

struct GumbelTopK : FixedSlots {
  using Role = role::Selection;
  static constexpr std::string_view name = "gumbel_top_k";
  static constexpr bool chooses_by_logits = true;
  double scale = 1;

  template <class Access>
  struct Parameters {};

  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& visit) {
    visit("scale", self.scale);
  }
  void check(Index /*top_k*/, Index /*experts*/) const {
    expects(scale >= 0 && scale < 1e6, "gumbel_top_k: scale: expected a number from 0 to below 1e6, found ", scale);
  }
  template <class Views, class Visitor>
  constexpr void visit_parameters(Index /*experts*/, Views&, Visitor&) const {}

  template <Backend B, class S = typename B::Scalar, class A = typename B::Accumulator>
  void select(Pass<B>& pass, Index /*top_k*/, Parameters<Values<S>> const&, RandomSite site, Matrix<A const> logits,
              Matrix<A const>, Matrix<ExpertId> experts) const {
    if (!pass.training) return top_k(pass.backend, logits, experts);
    auto const scratch = pass.scope();
    Matrix<A> const scores = pass.template allocate<A>(logits.extent(0), logits.extent(1));
    gumbel_scores(pass.backend, scale, pass.random(site), logits, scores);
    top_k(pass.backend, Matrix<A const>(scores), experts);
  }
};

namespace detail {

/// bias_e += rate * sign(mean count - count_e), unless the step changes nothing.
template <class A>
struct BalanceBias {
  double rate;
  RouterTotals totals;
  AdamWStep const* step;
  Vector<A> bias;
  MODULEFORMER_HOST_DEVICE void operator()() const {
    if (!(step->clip - step->clip == 0)) return;
    double sum = 0;
    for (Index e = 0; e < totals.experts(); ++e) sum += totals.count[e];
    double const mean = sum / static_cast<double>(totals.experts());
    for (Index e = 0; e < totals.experts(); ++e) {
      double const change = totals.count[e] < mean ? rate : totals.count[e] > mean ? -rate : 0;
      bias[e] = static_cast<A>(static_cast<double>(bias[e]) + change);
    }
  }
};

}  // namespace detail

struct BiasedTopK : FixedSlots {
  using Role = role::Selection;
  static constexpr std::string_view name = "biased_top_k";
  static constexpr std::string_view state_name = "expert_bias";
  double rate = 1e-3;

  template <class Access>
  struct Parameters {
    typename Access::template View<1> bias;  // (E)
  };

  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& visit) {
    visit("rate", self.rate);
  }
  void check(Index /*top_k*/, Index /*experts*/) const {
    expects(rate >= 0 && rate < 1e6, "biased_top_k: rate: expected a number from 0 to below 1e6, found ", rate);
  }
  template <class Views, class Visitor>
  constexpr void visit_parameters(Index experts, Views& p, Visitor& visit) const {
    visit(state_name, p.bias, Initial::state, experts);
  }

  template <Backend B, class S = typename B::Scalar, class A = typename B::Accumulator>
  void select(Pass<B>& pass, Index /*top_k*/, Parameters<Values<S>> const& p, RandomSite, Matrix<A const> logits,
              Matrix<A const>, Matrix<ExpertId> experts) const {
    auto const scratch = pass.scope();
    Matrix<A> const scores = pass.template allocate<A>(logits.extent(0), logits.extent(1));
    biased_scores(pass.backend, logits, pass.as_accumulator(p.bias.reshape(1, p.bias.size())).slice(0), scores);
    top_k(pass.backend, Matrix<A const>(scores), experts);
  }

  /// After a training step; bias (E), the totals and step[0] in backend memory.
  template <Backend B, class A = typename B::Accumulator>
  void update(B& backend, Vector<A> bias, RouterTotals const& totals, Vector<AdamWStep const> step) const {
    invoke(backend, detail::BalanceBias<A>{rate, totals, step.data(), bias});
  }
};

}  // namespace moduleformer
