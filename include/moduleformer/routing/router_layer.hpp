// SPDX-License-Identifier: MIT
#pragma once
// RouterLayer: one router with its gating and its auxiliary loss, for the routed of a layer's experts
// (routing/shared_experts.hpp); the letters E and K are theirs here:
//   logits = router(x);  experts = selection(logits);  gates = gating(logits, experts);  loss = routing_loss(sums over tokens)
// and the plan that sorts the slots by expert. What it computed stays in the context.

#include <moduleformer/core/dynamic_policy.hpp>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/routing/gating.hpp>
#include <moduleformer/routing/router_guard.hpp>
#include <moduleformer/routing/routers.hpp>
#include <moduleformer/routing/routing_losses.hpp>
#include <moduleformer/routing/selection.hpp>
#include <moduleformer/routing/statistics_span.hpp>

namespace moduleformer {

template <class S, class A, class RouterContext>
struct RouterLayerContext {
  Matrix<S> jittered;           // what the router read of x (N,D); null: x
  RouterContext router;
  Matrix<A> logits;             // (N,E)
  Choice<A> choice;             // among the routed experts, by their rows
  RemovedRows<S> removed;       // null: every row of the router has its expert, and its number
  Matrix<ExpertId> experts;     // (N,K) of the layer: the shared ones, then the choice
  Matrix<A> gates;              // (N,K)
  RoutingPlan plan;
  RoutingStatistics statistics;
  RoutingStatistics seen;       // by the loss: the statistics, or those of a longer span
  double const* seen_weight = nullptr;  // multiplies the loss's gradient; null: 1
  double* loss = nullptr;       // of this router, unweighted, or its guard; in backend memory
  Vector<A> old_logsumexp;      // of the guard; null: none
};

namespace detail {

/// *result = loss of the sums.
template <class Loss>
struct EvaluateLoss {
  Loss loss;
  RoutingStatistics sums;
  double* result;
  MODULEFORMER_HOST_DEVICE void operator()() const { *result = loss.value(sums); }
};

/// gradient = weight times the loss's derivatives.
template <class Loss>
struct DifferentiateLoss {
  Loss loss;
  RoutingStatistics sums;
  double const* weight;
  double const* seen_weight;
  RoutingGradient gradient;
  MODULEFORMER_HOST_DEVICE void operator()() const {
    RoutingGradient into = gradient;
    for (Index i = 0; i < sums.experts(); ++i) into.probability_sum[i] = into.gate_sum[i] = 0;
    *into.negative_entropy_sum = *into.squared_lse_sum = 0;
    double const total = weight == nullptr ? 0 : seen_weight != nullptr ? *weight * *seen_weight : *weight;
    if (total != 0) loss.gradient(sums, total, into);
  }
};

}  // namespace detail

/// Policies: members Router, Selection, Gating, RoutingLoss (types) and router, selection, gating, routing_loss (values).
template <class Policies, Backend B>
class RouterLayer {
 public:
  using S = typename B::Scalar;
  using A = typename B::Accumulator;
  using Router = typename Policies::Router;
  using Context = RouterLayerContext<S, A, typename Router::template Context<B>>;
  template <class Access>
  struct Parameters {
    typename Router::template Parameters<Access> router;
    typename Policies::Selection::template Parameters<Access> selection;
    typename Access::template View<1> kept_rows;  // (E) 1, or 0 for a row without an expert; null: all have one
  };

  /// Of a layer with so many experts, of which a token has top_k, `shared` of them without being routed. Throws Error for
  /// numbers of the selection that do not fit.
  constexpr RouterLayer(RouterExtents extents, Index top_k, Policies const& policies, Index shared = 0)
      : extents_(extents), top_k_(top_k - shared), shared_(shared), policies_(&policies) {
    extents_.experts -= shared;
    policies.selection.check(top_k_, routed_experts());
  }

  template <class Views, class Visitor>
  constexpr void visit_parameters(Views& p, Visitor& visit) const {
    RouterExtents const listed = extents_.listed(visit);
    policies_->router.visit_parameters(listed, p.router, visit);
    policies_->selection.visit_parameters(listed.experts, p.selection, visit);
    if (listed.removed > 0) visit("kept_rows", p.kept_rows, Initial::state, listed.experts);
  }

  /// Of the layer, and how many of them are shared, how many routed. Dormant ones do not count.
  [[nodiscard]] constexpr Index experts() const { return shared_ + routed_experts(); }
  /// As a visitor of parameters is to see them.
  template <class Visitor>
  [[nodiscard]] constexpr Index listed_experts(Visitor const& visit) const {
    return shared_ + extents_.listed(visit).experts - extents_.removed;
  }
  [[nodiscard]] Index shared_experts() const { return shared_; }
  [[nodiscard]] constexpr Index routed_experts() const { return extents_.experts - extents_.removed; }
  /// Logits of a token.
  [[nodiscard]] Index rows() const { return extents_.experts; }
  /// Slots of a token in memory, and whether some of them may be empty.
  [[nodiscard]] Index slots(bool training) const { return shared_ + routed_slots(training); }
  [[nodiscard]] bool leaves_empty(bool training) const { return policies_->selection.leaves_empty(training); }

  /// Routes x (N,D). `site` is the router's place (its sampling draws at the next one).
  Context forward(Pass<B>& pass, Parameters<Values<S>> const& p, Matrix<S const> x, Matrix<ExpertId const> given,
                  RandomSite site) const {
    Index const n = x.extent(0), e = experts(), k = slots(pass.training);
    B& backend = pass.backend;
    pass.router_site = site;
    auto const sampling = static_cast<RandomSite>(static_cast<std::uint32_t>(site) + 1);
    Context context{};
    context.logits = pass.template allocate<A>(n, extents_.experts);
    if (Jitter const jitter = pass.router_jitter(); jitter.width > 0) {
      context.jittered = pass.template allocate<S>(n, x.extent(1));
      apply_jitter(backend, jitter, x, context.jittered);
    }
    context.router = policies_->router.forward(pass, extents_, p.router, input(context, x), context.logits);
    if (extents_.removed > 0) {
      context.removed = {p.kept_rows, pass.template allocate<std::int32_t>(rows()),
                         pass.template allocate<std::int32_t>(routed_experts())};
      invoke(backend, detail::NumberRows<S>{context.removed});
    }
    context.choice = choose(pass, policies_->selection, policies_->gating, p.selection, top_k_, k - shared_, shared_,
                            context.removed, sampling, context.logits, given);
    Matrix<ExpertId> routed = context.choice.experts;
    if (context.removed) {
      routed = pass.template allocate<ExpertId>(n, k - shared_);
      invoke_each(backend, routed.size(), detail::Renumber{context.removed.expert_of_row.data(),
                                                           context.choice.experts.data(), routed.data()});
    }
    context.experts = routed;
    context.gates = context.choice.gates;
    if (shared_ > 0) {
      context.experts = pass.template allocate<ExpertId>(n, k);
      context.gates = pass.template allocate<A>(n, k);
      invoke_each(backend, n * k,
                  detail::PrependShared<A>{shared_, k, routed.data(), context.choice.gates.data(),
                                           context.experts.data(), context.gates.data()});
    }

    auto const chosen = context.experts.reshape(n * k);
    auto const order = pass.template allocate<std::int32_t>(n * k);
    auto const offsets = pass.template allocate<Index>(e + 1);
    sort_by_expert(backend, chosen, e, order, offsets, leaves_empty(pass.training));
    context.plan = {n, k, e, chosen, order, offsets};

    if (pass.losses) add_statistics(pass, context);
    return context;
  }

  /// From dgates (N,K), of all the layer's slots, and the weight of the routing loss in the pass's numbers: dx = the gradient of x; accumulates
  /// into the others.
  void backward(Pass<B>& pass, Parameters<Values<S>> const& p, Parameters<Gradients<A>> const& gradients,
                Context const& context, RandomSite site, Matrix<S const> x, Matrix<A const> dgates,
                Matrix<S> dx) const {
    auto const scratch = pass.scope();
    pass.router_site = site;
    Index const n = x.extent(0), e = extents_.experts;
    RoutingGradient gradient{pass.template allocate<double>(e), pass.template allocate<double>(e),
                             pass.template allocate<double>(1).data(), pass.template allocate<double>(1).data()};
    with_policy(policies_->routing_loss, [&]<class Loss>(Loss const& loss) {
      double const* const weight = context.old_logsumexp ? nullptr : &pass.numbers->routing_weight;
      invoke(pass.backend,
             detail::DifferentiateLoss<Loss>{loss, context.seen, weight, context.seen_weight, gradient});
    });
    if (shared_ > 0) {  // their gates are constants
      Matrix<A> const routed = pass.template allocate<A>(n, dgates.extent(1) - shared_);
      invoke_each(pass.backend, routed.size(),
                  detail::TakeRouted<A>{shared_, dgates.extent(1), dgates.data(), routed.data()});
      dgates = routed;
    }
    Matrix<A> const dlogits = pass.template allocate<A>(n, e);
    with_policy(policies_->gating, [&](auto const& gating) {
      gating.backward(pass, context.choice, Matrix<A const>(context.logits), dgates, gradient, dlogits);
    });
    if (context.old_logsumexp)
      invoke_each(pass.backend, n * e,
                  detail::GuardGradient<A>{e, pass.old_rows[pass.router()], &pass.numbers->routing_weight,
                                           static_cast<double>(n), context.logits.data(),
                                           context.choice.probabilities.data(), context.old_logsumexp.data(),
                                           dlogits.data()});
    policies_->router.backward(pass, extents_, p.router, gradients.router, context.router, input(context, x),
                               Matrix<A const>(dlogits), dx);
    if (context.jittered) apply_jitter(pass.backend, pass.router_jitter(), dx, dx);
  }

 private:
  [[nodiscard]] Index routed_slots(bool training) const {
    return policies_->selection.slots(top_k_, routed_experts(), training);
  }
  static Matrix<S const> input(Context const& context, Matrix<S const> x) {
    return context.jittered ? context.jittered : x;
  }

  /// The sums over the tokens, and the loss that is a function of them.
  void add_statistics(Pass<B>& pass, Context& context) const {
    Index const e = extents_.experts;
    auto const allocate = [&]() -> RoutingStatistics {
      return {context.plan.tokens,
              top_k_,
              pass.template allocate<double>(e),
              pass.template allocate<double>(e),
              pass.template allocate<double>(e),
              pass.template allocate<double>(1).data(),
              pass.template allocate<double>(1).data()};
    };
    context.statistics = context.seen = allocate();
    sum_routing(pass.backend, context.logits, context.choice.probabilities, context.choice.logsumexp,
                context.choice.gates, context.choice.experts, context.statistics);
    Span const span = span_of(policies_->statistics);
    if (RouterTotals const* const totals = pass.router_totals(); totals != nullptr) {
      if (pass.adds_to_totals) invoke(pass.backend, detail::AddToTotals{context.statistics, *totals});
      if (span != Span::micro_batch) {
        context.seen = allocate();
        double* const weight = pass.template allocate<double>(1).data();
        invoke(pass.backend, detail::SpanStatistics{span, context.statistics, *totals, context.seen, weight});
        context.seen_weight = weight;
      }
    }
    context.loss = pass.template allocate<double>(1).data();
    if (!pass.old_rows.empty()) return add_guard(pass, context);
    // An estimate is good for a gradient; what is reported is this pass's own loss.
    with_policy(policies_->routing_loss, [&]<class Loss>(Loss const& loss) {
      invoke(pass.backend, detail::EvaluateLoss<Loss>{loss, span == Span::streaming ? context.statistics : context.seen,
                                                      context.loss});
    });
  }

  /// The guard in place of the routing loss.
  void add_guard(Pass<B>& pass, Context& context) const {
    Index const n = context.plan.tokens;
    context.old_logsumexp = pass.template allocate<A>(n);
    auto const scratch = pass.scope();
    Matrix<A> const divergence = pass.template allocate<A>(n, 1), ones = pass.template allocate<A>(n, 1);
    Vector<A> const sum = pass.template allocate<A>(1);
    invoke_each(pass.backend, n,
                detail::GuardValue<A>{rows(), pass.old_rows[pass.router()], context.logits.data(),
                                      context.choice.logsumexp.data(), context.old_logsumexp.data(), divergence.data()});
    fill(pass.backend, ones.reshape(n), A(1));
    dot(pass.backend, divergence, ones, sum);
    invoke(pass.backend, detail::GuardMean<A>{sum.data(), static_cast<double>(n), context.loss});
  }

  RouterExtents extents_;  // E is the routed experts'
  Index top_k_;            // of these
  Index shared_;
  Policies const* policies_;
};

}  // namespace moduleformer
