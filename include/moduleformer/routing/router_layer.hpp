// SPDX-License-Identifier: MIT
#pragma once
// RouterLayer: one router with its gating and its auxiliary loss:
//   logits = router(x);  (experts, gates) = gating(logits);  loss = routing_loss(sums over tokens)
// and the plan that sorts the slots by expert. What it computed stays in the context.

#include <moduleformer/routing/gating.hpp>
#include <moduleformer/routing/routers.hpp>
#include <moduleformer/routing/routing_losses.hpp>

namespace moduleformer {

template <class S, class RouterContext>
struct RouterLayerContext {
  RouterContext router;
  Matrix<S> logits;             // (N,E)
  Choice<S> choice;
  RoutingPlan plan;
  RoutingStatistics statistics;
  double* loss = nullptr;       // of this router, unweighted; in backend memory
};

/// Policies: members Router, Gating, RoutingLoss (types) and router, gating, routing_loss (values).
template <class Policies, Backend B>
class RouterLayer {
 public:
  using S = typename B::Scalar;
  using Router = typename Policies::Router;
  using Context = RouterLayerContext<S, typename Router::template Context<S>>;
  template <class Access>
  using Parameters = typename Router::template Parameters<Access>;

  constexpr RouterLayer(RouterExtents extents, Index top_k, Policies const& policies)
      : extents_(extents), top_k_(top_k), policies_(&policies) {}

  template <class Views, class Visitor>
  constexpr void visit_parameters(Views& p, Visitor& visit) const {
    policies_->router.visit_parameters(extents_, p, visit);
  }

  [[nodiscard]] Index experts() const { return extents_.experts; }
  [[nodiscard]] Index top_k() const { return top_k_; }

  /// Routes x (N,D). `site` is the router's place (its sampling draws at the next one).
  Context forward(Pass<B>& pass, Parameters<Values<S>> const& p, Matrix<S const> x, Matrix<ExpertId const> given,
                  RandomSite site) const {
    Index const n = x.extent(0), e = extents_.experts;
    B& backend = pass.backend;
    pass.router_site = site;
    auto const sampling = static_cast<RandomSite>(static_cast<std::uint32_t>(site) + 1);
    Context context{};
    context.logits = pass.template allocate<S>(n, e);
    context.router = policies_->router.forward(pass, extents_, p, x, context.logits);
    context.choice = policies_->gating.forward(pass, top_k_, sampling, Matrix<S const>(context.logits), given);

    auto const chosen = context.choice.experts.reshape(n * top_k_);
    auto const order = pass.template allocate<std::int32_t>(n * top_k_);
    auto const offsets = pass.template allocate<Index>(e + 1);
    sort_by_expert(backend, chosen, e, order, offsets);
    context.plan = {n, top_k_, e, chosen, order, offsets};

    context.statistics = {n, top_k_, pass.template allocate<double>(e), pass.template allocate<double>(e),
                          pass.template allocate<double>(e), pass.template allocate<double>(1).data(),
                          pass.template allocate<double>(1).data()};
    sum_routing(backend, context.logits, context.choice.probabilities, context.choice.logsumexp, context.choice.gates,
                context.choice.experts, context.statistics);
    context.loss = pass.template allocate<double>(1).data();
    invoke(backend, [loss = policies_->routing_loss, sums = context.statistics, result = context.loss] {
      *result = loss.value(sums);
    });
    return context;
  }

  /// From dgates (N,K) and the weight of the routing loss in the total; accumulates into dx and the gradients.
  void backward(Pass<B>& pass, Parameters<Values<S>> const& p, Parameters<Gradients<S>> const& gradients,
                Context const& context, RandomSite site, Matrix<S const> x, Matrix<S const> dgates, double loss_weight,
                Matrix<S> dx) const {
    auto const scratch = pass.scope();
    pass.router_site = site;
    Index const n = x.extent(0), e = extents_.experts;
    RoutingGradient gradient{pass.template allocate<double>(e), pass.template allocate<double>(e),
                             pass.template allocate<double>(1).data(), pass.template allocate<double>(1).data()};
    invoke(pass.backend, [loss = policies_->routing_loss, sums = context.statistics, gradient, loss_weight]() mutable {
      for (Index i = 0; i < sums.experts(); ++i) gradient.probability_sum[i] = gradient.gate_sum[i] = 0;
      *gradient.negative_entropy_sum = *gradient.squared_lse_sum = 0;
      if (loss_weight != 0) loss.gradient(sums, loss_weight, gradient);
    });
    Matrix<S> const dlogits = pass.template allocate<S>(n, e);
    policies_->gating.backward(pass, context.choice, Matrix<S const>(context.logits), dgates, gradient, dlogits);
    policies_->router.backward(pass, extents_, p, gradients, context.router, x, Matrix<S const>(dlogits), dx);
  }

 private:
  RouterExtents extents_;
  Index top_k_;
  Policies const* policies_;
};

}  // namespace moduleformer
