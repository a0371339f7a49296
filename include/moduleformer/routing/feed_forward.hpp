// SPDX-License-Identifier: MIT
#pragma once
// A layer of feed-forward experts (arXiv 2306.04640 section 2.1):
//   y_t = sum over the K chosen e of gate_te W_out[e]^T act(W_in[e]^T x_t),  out = residual + dropout(y)

#include <moduleformer/core/dynamic_policy.hpp>
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
      : hidden_size_(extents.hidden_size), width_(width), router_(extents, top_k, policies), policies_(&policies) {}

  template <class Views, class Visitor>
  constexpr void visit_parameters(Views& p, Visitor& visit) const {
    visit("experts.weight", p.in, Initial::expert_uniform, router_.experts(), hidden_size_, width_);
    visit("output_experts.weight", p.out, Initial::expert_uniform, router_.experts(), width_, hidden_size_);
    visit.inside("gate.", [&] { router_.visit_parameters(p.router, visit); });
  }

  [[nodiscard]] Router const& router() const { return router_; }

  /// x, residual, out (N,D); out may be residual. `given` (N,K) replaces the router's choice if not null.
  Context forward(Pass<B>& pass, Parameters<Values<S>> const& p, Matrix<S const> x, Matrix<ExpertId const> given,
                  Matrix<S const> residual, Matrix<S> out) const {
    Context context{router_.forward(pass, p.router, x, given, RandomSite::feed_forward_router), {}};
    RoutingPlan const& plan = context.router.plan;
    if (pass.keep) context.z = pass.template allocate<S>(plan.slots(), width_);
    auto const scratch = pass.scope();
    Matrix<S> const h = pass.template allocate<S>(plan.slots(), width_);
    with_policy(policies_->activation, [&](auto const& act) {
      expert_forward(pass.backend, plan, act, x, Rows::token, p.in, {}, context.z, h, Rows::sorted);
    });
    Matrix<S> const y = pass.template allocate<S>(plan.slots(), hidden_size_);
    expert_forward(pass.backend, plan, Identity{}, h, Rows::sorted, p.out, gates(context), {}, y, Rows::slot);
    combine(pass.backend, plan.top_k, y, dropout(pass), residual, out);
    return context;
  }

  /// dout (N,D) is the gradient of `out`; accumulates into dx (N,D) and the gradients. The residual's
  /// gradient is dout itself.
  void backward(Pass<B>& pass, Parameters<Values<S>> const& p, Parameters<Gradients<A>> const& gradients,
                Context const& context, Matrix<S const> x, Matrix<S const> dout, Matrix<S> dx) const {
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
    Matrix<S> const dx_slots = pass.template allocate<S>(plan.slots(), hidden_size_);
    expert_input_gradient(backend, plan, dz, Rows::sorted, p.in, dx_slots, Rows::slot);
    combine_slots(backend, plan.top_k, dx_slots, dx);
    router_.backward(pass, p.router, gradients.router, context.router, RandomSite::feed_forward_router, x,
                     dgates.reshape(plan.tokens, plan.top_k), dx);
  }

 private:
  static Vector<A const> gates(Context const& context) {
    return context.router.choice.gates.reshape(context.router.plan.slots());
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
