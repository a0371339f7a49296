// SPDX-License-Identifier: MIT
#pragma once
// From a router's logits (N,E) to the experts of each token and their gates:
//   probs = softmax(logits) over all E;  experts = selection(logits, probs);  gates = gating(logits, probs, experts)
// where the selection may exclude experts first: their logits become -infinity.
// The selection (routing/selection.hpp) and the gates (routing/gating.hpp) are policies. As published: the K largest
// logits, gated by their probabilities.

#include <moduleformer/core/dynamic_policy.hpp>
#include <moduleformer/core/error.hpp>
#include <moduleformer/nn/pass.hpp>
#include <moduleformer/routing/removed_rows.hpp>
#include <moduleformer/routing/shared_experts.hpp>

#include <type_traits>

namespace moduleformer {

/// What was chosen, for the layer, the losses and backward.
template <class A>
struct Choice {
  Matrix<A> probabilities;     // (N,E)
  Vector<A> logsumexp;         // (N)
  Matrix<ExpertId> experts;    // (N,K)
  Matrix<A> gates;             // (N,K)
};

namespace detail {

template <class Selection>
inline constexpr bool samples_slots = requires { requires Selection::samples_slots; };

/// Throws Error if the selection would ignore that some slots are to be sampled.
template <class Selection>
void check_sampled_slots(Selection const& selection, Settings const& settings) {
  with_policy(selection, [&]<class Concrete>(Concrete const&) {
    if constexpr (!samples_slots<Concrete>)
      expects(settings.sampled_slots == 0, "sample_topk: selection ", Concrete::name,
              " samples no slots, expected 0, found ", settings.sampled_slots);
  });
}

}  // namespace detail

/// K experts of each token in so many slots, of a layer with S shared experts before its E routed ones, by the rows of their
/// logits. `given` (N, S + slots), if any, are the layer's experts and replace the selection; the gates are computed all the
/// same. `site` is where the selection draws random numbers.
template <class Selection, class Gating, Backend B, class P, class A = typename B::Accumulator>
Choice<A> choose(Pass<B>& pass, Selection const& selection, Gating const& gating, P const& p, Index k, Index slots,
                 Index shared, RemovedRows<typename B::Scalar> const& removed, RandomSite site,
                 Matrix<std::type_identity_t<A>> mutable_logits, Matrix<ExpertId const> given) {
  selection.restrict(pass, k, site, mutable_logits);
  Matrix<A const> const logits = mutable_logits;
  Index const n = logits.extent(0), e = logits.extent(1);
  Choice<A> choice{pass.template allocate<A>(n, e), pass.template allocate<A>(n),
                   pass.template allocate<ExpertId>(n, slots), pass.template allocate<A>(n, slots)};
  if (pass.training) detail::check_sampled_slots(selection, pass.settings);
  softmax(pass.backend, logits, choice.probabilities, choice.logsumexp);
  if (given && shared > 0)
    invoke_each(pass.backend, n * slots,
                detail::TakeRouted<ExpertId>{shared, shared + slots, given.data(), choice.experts.data()});
  else if (given)
    copy(pass.backend, given.reshape(given.size()), choice.experts.reshape(n * slots));
  else if (!removed)
    selection.select(pass, k, p, site, logits, Matrix<A const>(choice.probabilities), choice.experts);
  if (removed && given) {
    invoke_each(pass.backend, n * slots,
                detail::Renumber{removed.row_of_expert.data(), choice.experts.data(), choice.experts.data()});
  } else if (removed) {
    auto const scratch = pass.scope();
    Matrix<A> const masked = pass.template allocate<A>(n, e);
    invoke_each(pass.backend, n * e,
                detail::MaskLogits<A>{e, removed.expert_of_row.data(), logits.data(), masked.data()});
    selection.select(pass, k, p, site, Matrix<A const>(masked), Matrix<A const>(choice.probabilities), choice.experts);
  }
  with_policy(gating, [&](auto const& gates) { gates.forward(pass, logits, choice); });
  return choice;
}

}  // namespace moduleformer
