// SPDX-License-Identifier: MIT
#pragma once
// A layer of stick-breaking attention experts (arXiv 2306.04640 section 2.2). The s-th chosen expert e of
// token t makes a query and an output; keys and values are shared by all experts:
//   q = W_q[e]^T x_t,  k = W_k x + b_k,  v = W_v x + b_v,  y_ts = gate_te W_o[e]^T attention(q, k, v)
//   out_t = residual_t + dropout(sum_s y_ts)
// With one head as wide as the model there is no W_k, W_v: k = v = x, one tensor serves both.
// A layer leaves y; the norm that reads out adds it up (nn/combination.hpp). Backward leaves dx in the same way.

#include <moduleformer/nn/combination.hpp>
#include <moduleformer/routing/router_layer.hpp>

namespace moduleformer {

/// Stick-breaking as a policy: does a query see its own token, and what becomes of the stick left.
template <bool inclusive, bool keep_remainder>
struct StickBreaking {
  using Role = role::Attention;
  static constexpr std::string_view name = inclusive ? (keep_remainder ? "inclusive_remainder" : "inclusive")
                                                     : (keep_remainder ? "strict_remainder" : "strict");
  [[nodiscard]] constexpr StickBreakingVariant variant() const { return {inclusive, keep_remainder}; }
};
using InclusiveAttention = StickBreaking<true, false>;  // the published model's
using InclusiveRemainderAttention = StickBreaking<true, true>;
using StrictAttention = StickBreaking<false, false>;  // arXiv 2410.17980
using StrictRemainderAttention = StickBreaking<false, true>;

/// Keys and values that attention reads: this call's tokens, or a cache that they are appended to.
template <class S>
struct KeyValueCache {
  Matrix<S> keys;    // (rows, A); null: no cache
  Matrix<S> values;  // may be `keys` where they are shared
};

template <class Policies, Backend B>
class Attention {
 public:
  using S = typename B::Scalar;
  using A = typename B::Accumulator;
  using Router = RouterLayer<Policies, B>;

  template <class Access>
  struct Projection {
    typename Access::template View<2> weight;  // (A,D)
    typename Access::template View<1> bias;    // (A)
  };
  template <class Access>
  struct Parameters {
    typename Access::template View<3> in;   // W_q (E,D,A)
    typename Access::template View<3> out;  // W_o (E,A,D)
    typename Router::template Parameters<Access> router;
    Projection<Access> key;    // null where keys are shared
    Projection<Access> value;
  };
  struct Context {
    typename Router::Context router;
    Matrix<S> q;                 // (P,A), rows are slots
    Matrix<S const> k, v;        // (N,A), or the cache
    Matrix<S> o;                 // attention's output (P,A)
    Matrix<A> log_stick;         // (P,H)
    Matrix<std::int32_t> stop;   // (P,H)
  };

  constexpr Attention(RouterExtents extents, Index top_k, Index heads, Index width, Policies const& policies)
      : hidden_size_(extents.hidden_size), heads_(heads), width_(width), router_(extents, top_k, policies, shared_counts(policies.shared_experts).attention),
        policies_(&policies) {}

  template <class Views, class Visitor>
  constexpr void visit_parameters(Views& p, Visitor& visit) const {
    visit.inside("q_proj.", [&] {
      visit("experts.weight", p.in, Initial::expert_uniform, router_.listed_experts(visit), hidden_size_, width_);
      visit("output_experts.weight", p.out, Initial::expert_uniform, router_.listed_experts(visit), width_, hidden_size_);
      visit.inside("gate.", [&] { router_.visit_parameters(p.router, visit); });
    });
    if (shared_keys()) return;
    visit.inside("k_proj.", [&] { visit_projection(p.key, visit); });
    visit.inside("v_proj.", [&] { visit_projection(p.value, visit); });
  }

  [[nodiscard]] Router const& router() const { return router_; }
  /// One head as wide as the model: keys and values are the layer's input.
  [[nodiscard]] constexpr bool shared_keys() const { return heads_ == 1 && width_ == hidden_size_; }
  [[nodiscard]] StickBreakingVariant variant() const { return policies_->attention.variant(); }
  /// With so many slots of a token.
  [[nodiscard]] AttentionExtents extents(Index slots, Index most_keys = 0) const {
    return {heads_, width_ / heads_, slots, stop_below(), most_keys};
  }

  /// x (N,D), y (P,D). Without a cache, sequences name rows of x for both queries and keys; with one, their
  /// keys are rows of the cache, the new ones at each sequence's end.
  Context forward(Pass<B>& pass, Parameters<Values<S>> const& p, Matrix<S const> x, Vector<Sequence const> sequences,
                  KeyValueCache<S> cache, Matrix<ExpertId const> given, Matrix<S> y) const {
    B& backend = pass.backend;
    Index const n = x.extent(0);
    Context context{};
    context.router = router_.forward(pass, p.router, x, given, RandomSite::attention_router);
    RoutingPlan const& plan = context.router.plan;
    context.q = pass.template allocate<S>(plan.slots(), width_);
    // What an empty slot has is zero wherever a whole token is read.
    bool const some_empty = router_.leaves_empty(pass.training);
    if (some_empty) fill_zero(backend, context.q), fill_zero(backend, y);
    expert_forward(backend, plan, Identity{}, x, Rows::token, p.in, {}, {}, context.q, Rows::slot);
    context.k = context.v = x;
    if (!shared_keys()) {
      Matrix<S> const k = pass.template allocate<S>(n, width_), v = pass.template allocate<S>(n, width_);
      linear(backend, x, p.key.weight, p.key.bias, k);
      linear(backend, x, p.value.weight, p.value.bias, v);
      context.k = k;
      context.v = v;
    }
    if (cache.keys) {
      append_rows(backend, sequences, context.k, cache.keys);
      if (!shared_keys()) append_rows(backend, sequences, context.v, cache.values);
      context.k = cache.keys;
      context.v = shared_keys() ? cache.keys : cache.values;
    }
    context.o = pass.template allocate<S>(plan.slots(), width_);
    if (pass.keep) {
      context.log_stick = pass.template allocate<A>(plan.slots(), heads_);
      context.stop = pass.template allocate<std::int32_t>(plan.slots(), heads_);
    }
    stick_breaking_forward(backend, variant(), extents(plan.top_k, pass.most_keys), sequences, context.q, context.k, context.v, context.o,
                           context.log_stick, context.stop);
    expert_forward(backend, plan, Identity{}, context.o, Rows::slot, p.out, gates(context), {}, y, Rows::slot);
    return context;
  }

  /// What the layer's output is the sum of, from forward's y.
  Combination<S> output(Pass<B> const& pass, Matrix<S const> residual, Matrix<S const> y) const {
    return {residual, router_.slots(pass.training), y, dropout(pass)};
  }

  /// dout (N,D) is the gradient of `out`, and of the residual. Returns what the gradient of x is the sum of, in dx
  /// (N,D) and dx_slots (P,D); accumulates into the gradients.
  Combination<S> backward(Pass<B>& pass, Parameters<Values<S>> const& p, Parameters<Gradients<A>> const& gradients,
                          Context const& context, Matrix<S const> x, Vector<Sequence const> sequences,
                          Matrix<S const> dout, Matrix<S> dx, Matrix<S> dx_slots) const {
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
    bool const some_empty = router_.leaves_empty(pass.training);
    if (some_empty) fill(backend, dgates, A(0)), fill_zero(backend, dx_slots);
    Matrix<S> const dq = pass.template allocate<S>(plan.slots(), width_);
    {
      auto const inner = pass.scope();
      Matrix<S> const d_o = pass.template allocate<S>(plan.slots(), width_);
      if (some_empty) fill_zero(backend, d_o);
      {
        auto const innermost = pass.scope();
        Matrix<S> const scaled = pass.template allocate<S>(plan.slots(), width_);  // gate o
        expert_backward(backend, plan, Identity{}, dy, Rows::token, p.out, gates(context), context.o, Rows::slot, dgates,
                        d_o, scaled);
        if (gradients.out)
          expert_weight_gradient(backend, plan, scaled, Rows::slot, dy, Rows::token, gradients.out.first, gradients.out);
      }
      router_.backward(pass, p.router, gradients.router, context.router, RandomSite::attention_router, x,
                       dgates.reshape(plan.tokens, plan.top_k), dx);
      attention_backward(pass, p, gradients, context, x, sequences, d_o, dq, dx);
    }
    if (gradients.in)
      expert_weight_gradient(backend, plan, x, Rows::token, dq, Rows::slot, gradients.in.first, gradients.in);
    expert_input_gradient(backend, plan, dq, Rows::slot, p.in, dx_slots, Rows::slot);
    return {dx, plan.top_k, dx_slots};
  }

 private:
  template <class Views, class Visitor>
  constexpr void visit_projection(Views& p, Visitor& visit) const {
    visit("weight", p.weight, Initial::normal, width_, hidden_size_);
    visit("bias", p.bias, Initial::zero, width_);
  }

  /// d_o (P,A) -> dq (P,A) =, and dx += through keys and values.
  void attention_backward(Pass<B>& pass, Parameters<Values<S>> const& p, Parameters<Gradients<A>> const& gradients,
                          Context const& context, Matrix<S const> x, Vector<Sequence const> sequences, Matrix<S const> d_o,
                          Matrix<S> dq, Matrix<S> dx) const {
    B& backend = pass.backend;
    if (shared_keys()) {
      stick_breaking_backward(backend, variant(), extents(context.router.plan.top_k, pass.most_keys), sequences, d_o, context.q, context.k, context.v,
                              context.log_stick, context.stop, dq, dx, dx);
      return;
    }
    Index const n = x.extent(0);
    Matrix<S> const dk = pass.template allocate<S>(n, width_), dv = pass.template allocate<S>(n, width_);
    fill(backend, dk.reshape(dk.size()), S(0));
    fill(backend, dv.reshape(dv.size()), S(0));
    stick_breaking_backward(backend, variant(), extents(context.router.plan.top_k, pass.most_keys), sequences, d_o, context.q, context.k, context.v,
                            context.log_stick, context.stop, dq, dk, dv);
    project_backward(pass, p.key, gradients.key, x, dk, dx);
    project_backward(pass, p.value, gradients.value, x, dv, dx);
  }

  static void project_backward(Pass<B>& pass, Projection<Values<S>> const& p, Projection<Gradients<A>> const& gradients,
                               Matrix<S const> x, Matrix<S const> dy, Matrix<S> dx) {
    linear_input_gradient(pass.backend, dy, p.weight, dx, true);
    if (gradients.weight) linear_weight_gradient(pass.backend, dy, x, gradients.weight.first, gradients.weight);
    if (gradients.bias) bias_gradient(pass.backend, dy, gradients.bias.first, gradients.bias);
  }

  static Vector<A const> gates(Context const& context) {
    return context.router.gates.reshape(context.router.plan.slots());
  }
  static Dropout dropout(Pass<B> const& pass) {
    return pass.dropout(RandomSite::attention_residual, pass.settings.residual_dropout);
  }
  /// Where what is left of the stick no longer changes a result of this precision.
  static constexpr double stop_below() {
    return std::same_as<S, double> ? 0x1p-80 : std::same_as<S, float> ? 0x1p-40 : 0x1p-24;
  }

  Index hidden_size_;
  Index heads_;
  Index width_;
  Router router_;
  Policies const* policies_;
};

}  // namespace moduleformer
