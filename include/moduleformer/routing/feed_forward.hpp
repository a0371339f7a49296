// SPDX-License-Identifier: MIT
#pragma once
// A layer of feed-forward experts (arXiv 2306.04640 section 2.1):
//   y_ts = gate_te W_out[e]^T act(W_in[e]^T x_t) for the s-th chosen e of K;  out_t = residual_t + dropout(sum_s y_ts)
// A layer leaves y; the norm that reads out adds it up (nn/combination.hpp). Backward leaves dx in the same way.

#include <moduleformer/core/dynamic_policy.hpp>
#include <moduleformer/nn/combination.hpp>
#include <moduleformer/routing/router_layer.hpp>

namespace moduleformer {

template <class Policies, Backend B>
class FeedForward {
 public:
  using S = typename B::Scalar;
  using A = typename B::Accumulator;
  using Router = RouterLayer<Policies, B>;

  template <class Access>
  struct Parameters {
    typename Access::template View<3> in;   // (E,D,F)
    typename Access::template View<3> out;  // (E,F,D)
    typename Router::template Parameters<Access> router;
  };
  struct Context {
    typename Router::Context router;
    Matrix<S> z;  // W_in^T x of each sorted slot  (P,F)
  };

  constexpr FeedForward(RouterExtents extents, Index top_k, Index width, Policies const& policies)
      : hidden_size_(extents.hidden_size), width_(width), router_(extents, top_k, policies, shared_counts(policies.shared_experts).feed_forward),
        policies_(&policies) {}

  template <class Views, class Visitor>
  constexpr void visit_parameters(Views& p, Visitor& visit) const {
    visit("experts.weight", p.in, Initial::expert_uniform, router_.listed_experts(visit), hidden_size_, width_);
    visit("output_experts.weight", p.out, Initial::expert_uniform, router_.listed_experts(visit), width_, hidden_size_);
    visit.inside("gate.", [&] { router_.visit_parameters(p.router, visit); });
  }

  [[nodiscard]] Router const& router() const { return router_; }

  /// x (N,D); y (P,D) or null: not wanted, only what backward needs. `given` (N,K) replaces the router's choice if not
  /// null.
  Context forward(Pass<B>& pass, Parameters<Values<S>> const& p, Matrix<S const> x, Matrix<ExpertId const> given,
                  Matrix<S> y) const {
    Context context{router_.forward(pass, p.router, x, given, RandomSite::feed_forward_router), {}};
    RoutingPlan const& plan = context.router.plan;
    if (pass.keep) context.z = pass.template allocate<S>(plan.slots(), width_);
    if (!y) {
      expert_forward(pass.backend, plan, Identity{}, x, Rows::token, p.in, {}, {}, context.z, Rows::sorted);
      return context;
    }
    auto const scratch = pass.scope();
    if (router_.leaves_empty(pass.training)) fill_zero(pass.backend, y);  // what no expert writes
    Matrix<S> const h = pass.template allocate<S>(plan.slots(), width_);
    with_policy(policies_->activation, [&](auto const& act) {
      expert_forward(pass.backend, plan, act, x, Rows::token, p.in, {}, context.z, h, Rows::sorted);
    });
    expert_forward(pass.backend, plan, Identity{}, h, Rows::sorted, p.out, gates(context), {}, y, Rows::slot);
    return context;
  }

  /// What the layer's output is the sum of, from forward's y.
  Combination<S> output(Pass<B> const& pass, Matrix<S const> residual, Matrix<S const> y) const {
    return {residual, router_.slots(pass.training), y, dropout(pass)};
  }

  /// dout (N,D) is the gradient of `out`, and of the residual. Returns what the gradient of x is the sum of, in dx
  /// (N,D) and dx_slots (P,D); accumulates into the gradients.
  Combination<S> backward(Pass<B>& pass, Parameters<Values<S>> const& p, Parameters<Gradients<A>> const& gradients,
                          Context const& context, Matrix<S const> x, Matrix<S const> dout, Matrix<S> dx,
                          Matrix<S> dx_slots) const {
    auto const scratch = pass.scope();
    B& backend = pass.backend;
    RoutingPlan const& plan = context.router.plan;
    Matrix<S const> dy = dout;
    if (auto const drop = dropout(pass); drop.probability > 0) {
      Matrix<S> const masked = pass.template allocate<S>(dout.extent(0), dout.extent(1));
      apply_dropout(backend, drop, dout, masked);
      dy = masked;
    }
    Vector<A> const dgates = pass.template allocate<A>(plan.slots());
    if (router_.leaves_empty(pass.training)) fill(backend, dgates, A(0)), fill_zero(backend, dx_slots);
    Matrix<S> const dz = pass.template allocate<S>(plan.slots(), width_);
    {
      auto const inner = pass.scope();
      Matrix<S> const scaled = pass.template allocate<S>(plan.slots(), width_);  // gate act(z)
      with_policy(policies_->activation, [&](auto const& act) {
        expert_backward(backend, plan, act, dy, Rows::token, p.out, gates(context), context.z, Rows::sorted, dgates, dz,
                        scaled);
      });
      if (gradients.out)
        expert_weight_gradient(backend, plan, scaled, Rows::sorted, dy, Rows::token, gradients.out.first, gradients.out);
    }
    if (gradients.in)
      expert_weight_gradient(backend, plan, x, Rows::token, dz, Rows::sorted, gradients.in.first, gradients.in);
    expert_input_gradient(backend, plan, dz, Rows::sorted, p.in, dx_slots, Rows::slot);
    router_.backward(pass, p.router, gradients.router, context.router, RandomSite::feed_forward_router, x,
                     dgates.reshape(plan.tokens, plan.top_k), dx);
    return {dx, plan.top_k, dx_slots};
  }

 private:
  static Vector<A const> gates(Context const& context) {
    return context.router.gates.reshape(context.router.plan.slots());
  }
  static Dropout dropout(Pass<B> const& pass) {
    return pass.dropout(RandomSite::feed_forward_residual, pass.settings.residual_dropout);
  }

  Index hidden_size_;
  Index width_;
  Router router_;
  Policies const* policies_;
};

}  // namespace moduleformer
