// SPDX-License-Identifier: MIT
#pragma once
// Policies chosen at run time for the roles that have state or virtual parts of their own: a router
// (its parameters and context become variants too), a selection, an attention variant, a routing loss. Each is an
// AnyOf with the role's interface, so layers see no difference.

#include <moduleformer/core/dynamic_policy.hpp>
#include <moduleformer/routing/attention.hpp>
#include <moduleformer/routing/document_pool.hpp>
#include <moduleformer/routing/expert_choice.hpp>
#include <moduleformer/routing/weighted_sum.hpp>

#include <cstddef>
#include <utility>
#include <variant>

namespace moduleformer {

namespace detail {

/// Calls f<I>(policy) for the one that the variant holds, its I-th.
template <class... Choices, class F>
void at_choice(std::variant<Choices...> const& choice, F const& f) {
  [&]<std::size_t... I>(std::index_sequence<I...>) {
    (void)((choice.index() == I && (f.template operator()<I>(std::get<I>(choice)), true)) || ...);
  }(std::index_sequence_for<Choices...>{});
}

}  // namespace detail

/// A router that is one of several.
template <class... Routers>
struct AnyRouter : AnyOf<Routers...> {
  using AnyOf<Routers...>::AnyOf;

  template <class Access>
  using Parameters = std::variant<typename Routers::template Parameters<Access>...>;
  template <class B>
  using Context = std::variant<typename Routers::template Context<B>...>;

  template <class Views, class Visitor>
  void visit_parameters(RouterExtents extents, Views& p, Visitor& visit) const {
    detail::at_choice(this->choice, [&]<std::size_t I>(auto const& router) {
      if (p.index() != I) p.template emplace<I>();
      router.visit_parameters(extents, std::get<I>(p), visit);
    });
  }

  template <Backend B, class S = typename B::Scalar, class A = typename B::Accumulator>
  Context<B> forward(Pass<B>& pass, RouterExtents extents, Parameters<Values<S>> const& p, Matrix<S const> x,
                        Matrix<A> logits) const {
    Context<B> context;
    detail::at_choice(this->choice, [&]<std::size_t I>(auto const& router) {
      context.template emplace<I>(router.forward(pass, extents, std::get<I>(p), x, logits));
    });
    return context;
  }

  template <Backend B, class S = typename B::Scalar, class A = typename B::Accumulator>
  void backward(Pass<B>& pass, RouterExtents extents, Parameters<Values<S>> const& p,
                Parameters<Gradients<A>> const& gradients, Context<B> const& context, Matrix<S const> x,
                Matrix<A const> dlogits, Matrix<S> dx) const {
    detail::at_choice(this->choice, [&]<std::size_t I>(auto const& router) {
      router.backward(pass, extents, std::get<I>(p), std::get<I>(gradients), std::get<I>(context), x, dlogits, dx);
    });
  }
};

/// A selection that is one of several.
template <class... Selections>
struct AnySelection : AnyOf<Selections...> {
  using AnyOf<Selections...>::AnyOf;

  template <class Access>
  using Parameters = std::variant<typename Selections::template Parameters<Access>...>;

  template <class Views, class Visitor>
  void visit_parameters(Index experts, Views& p, Visitor& visit) const {
    detail::at_choice(this->choice, [&]<std::size_t I>(auto const& selection) {
      if (p.index() != I) p.template emplace<I>();
      selection.visit_parameters(experts, std::get<I>(p), visit);
    });
  }

  [[nodiscard]] Index slots(Index top_k, Index experts, bool training) const {
    return with_policy(*this, [&](auto const& selection) { return selection.slots(top_k, experts, training); });
  }
  [[nodiscard]] bool leaves_empty(bool training) const {
    return with_policy(*this, [&](auto const& selection) { return selection.leaves_empty(training); });
  }

  void check(Index top_k, Index experts) const {
    with_policy(*this, [&](auto const& selection) { selection.check(top_k, experts); });
  }
  template <Backend B, class A = typename B::Accumulator>
  void restrict(Pass<B>& pass, Index top_k, RandomSite site, Matrix<A> logits) const {
    with_policy(*this, [&](auto const& selection) { selection.restrict(pass, top_k, site, logits); });
  }

  template <Backend B, class S = typename B::Scalar, class A = typename B::Accumulator>
  void select(Pass<B>& pass, Index top_k, Parameters<Values<S>> const& p, RandomSite site, Matrix<A const> logits,
              Matrix<A const> probabilities, Matrix<ExpertId> experts) const {
    detail::at_choice(this->choice, [&]<std::size_t I>(auto const& selection) {
      selection.select(pass, top_k, std::get<I>(p), site, logits, probabilities, experts);
    });
  }
};

/// An attention variant that is one of several.
template <class... Variants>
struct AnyAttention : AnyOf<Variants...> {
  using AnyOf<Variants...>::AnyOf;
  [[nodiscard]] StickBreakingVariant variant() const {
    return with_policy(*this, [](auto const& concrete) { return concrete.variant(); });
  }
};

/// A routing loss that is one of several.
template <class... Losses>
struct AnyRoutingLoss : AnyOf<Losses...> {
  using AnyOf<Losses...>::AnyOf;
  [[nodiscard]] double value(RoutingStatistics const& sums) const {
    return with_policy(*this, [&](auto const& loss) { return loss.value(sums); });
  }
  void gradient(RoutingStatistics const& sums, double weight, RoutingGradient& gradient) const {
    with_policy(*this, [&](auto const& loss) { loss.gradient(sums, weight, gradient); });
  }
};

}  // namespace moduleformer
