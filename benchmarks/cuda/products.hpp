// SPDX-License-Identifier: MIT
#pragma once
// Benchmarks of products: ragged experts in each form that a layer uses, dense linear layers, a few rows as in
// decoding.

#include "runner.hpp"

#include <moduleformer/core/functors.hpp>

#include <type_traits>

namespace bench {

/// One layer's experts: x (N,D) -> h (P,F) -> y (P,D). The weights are (E,D,F) and (E,F,D).
struct ExpertLayer {
  char const* name;
  Index tokens, top_k, experts, hidden, width;
};

/// Feed-forward experts with their activation; attention experts with none, whose rows are slots'.
template <class B, class Act>
void expert_forms(Runner<B>& run, ExpertLayer const& l, Load load, Act act) {
  using S = typename B::Scalar;
  using mf::Rows;
  Index const n = l.tokens, k = l.top_k, e = l.experts, d = l.hidden, f = l.width, p = n * k;
  cost::Experts const up = cost::experts(n, k, e, d, f), down = cost::experts(n, k, e, f, d);
  std::string const shape = text("N", n) + ", " + text("K", k) + ", " + text("E", e) + ", " + load_name(load) + ", ";
  std::string const up_shape = shape + std::to_string(d) + " -> " + std::to_string(f);
  std::string const down_shape = shape + std::to_string(f) + " -> " + std::to_string(d);
  DenseProduct const dense{p, d, f};
  auto const routed = [=](Arrays<B>& a) { return Routed<B>(a, n, k, e, load); };

  if constexpr (std::is_same_v<Act, mf::Identity>) {
    run.line(
        "forward: gather, scatter", up_shape, cost::expert_forward(up, true, false),
        [=](Arrays<B>& a, Cost&) {
          auto const r = routed(a);
          auto const x = a.random(n, d), y = a.template allocate<S>(p, f);
          auto const w = a.random(e, d, f);
          return [=, &a] { expert_forward(a.backend(), r.plan, act, x, Rows::token, w, {}, {}, y, Rows::slot); };
        },
        dense);
  } else {
    run.line(
        "forward: gather, GELU, z kept", up_shape, cost::expert_forward(up, true, true),
        [=](Arrays<B>& a, Cost&) {
          auto const r = routed(a);
          auto const x = a.random(n, d), z = a.template allocate<S>(p, f), y = a.template allocate<S>(p, f);
          auto const w = a.random(e, d, f);
          return [=, &a] { expert_forward(a.backend(), r.plan, act, x, Rows::token, w, {}, z, y, Rows::sorted); };
        },
        dense);
  }
  run.line(
      "forward: gate, scatter", down_shape, cost::expert_forward(down, false, false),
      [=](Arrays<B>& a, Cost&) {
        auto const r = routed(a);
        auto const h = a.random(p, f), y = a.template allocate<S>(p, d);
        auto const w = a.random(e, f, d);
        return [=, &a] {
          expert_forward(a.backend(), r.plan, mf::Identity{}, h, Rows::sorted, w, r.slot_gates(), {}, y, Rows::slot);
        };
      },
      dense);
  run.line(
      "backward: dz, gate h, gates' gradient", down_shape, cost::expert_backward(down),
      [=](Arrays<B>& a, Cost&) {
        auto const r = routed(a);
        auto const dy = a.random(n, d), z = a.random(p, f), dz = a.template allocate<S>(p, f),
                   scaled = a.template allocate<S>(p, f);
        auto const w = a.random(e, f, d);
        auto const dgates = a.template allocate<float>(p);
        return [=, &a] {
          expert_backward(a.backend(), r.plan, act, dy, Rows::token, w, r.slot_gates(), z, Rows::sorted, dgates, dz,
                          scaled);
        };
      },
      dense);
  run.line(
      "input gradient, scatter", up_shape, cost::expert_input_gradient(up),
      [=](Arrays<B>& a, Cost&) {
        auto const r = routed(a);
        auto const dz = a.random(p, f), dx = a.template allocate<S>(p, d);
        auto const w = a.random(e, d, f);
        return [=, &a] { expert_input_gradient(a.backend(), r.plan, dz, Rows::sorted, w, dx, Rows::slot); };
      },
      dense);
  run.line(
      "weight gradient, x gathered", up_shape, cost::expert_weight_gradient(up, true),
      [=](Arrays<B>& a, Cost&) {
        auto const r = routed(a);
        auto const x = a.random(n, d), dz = a.random(p, f);
        auto const dw = a.template zeros<float>(e, d, f);
        return [=, &a] { expert_weight_gradient(a.backend(), r.plan, x, Rows::token, dz, Rows::sorted, 0, dw); };
      },
      dense);
  run.line(
      "weight gradient, dy gathered", down_shape, cost::expert_weight_gradient(down, false),
      [=](Arrays<B>& a, Cost&) {
        auto const r = routed(a);
        auto const h = a.random(p, f), dy = a.random(n, d);
        auto const dw = a.template zeros<float>(e, f, d);
        return [=, &a] { expert_weight_gradient(a.backend(), r.plan, h, Rows::sorted, dy, Rows::token, 0, dw); };
      },
      dense);
}

template <class B>
void expert_products(Runner<B>& run) {
  Index const few = run.size(16384, 24), many = run.size(65536, 48), d = run.size(1024, 40), f = run.size(2048, 72);
  Index const e = run.size(32, 4), attention = run.size(16, 3);
  auto const each_load = [&](ExpertLayer const& layer, auto act) {
    if (!run.table(std::string("Grouped products: ") + layer.name)) return;
    for (Load const load : {Load::even, Load::skewed}) expert_forms(run, layer, load, act);
  };
  each_load({"feed-forward experts", few, 2, e, d, f}, mf::GeluTanh{});
  each_load({"feed-forward experts, 64k tokens", many, 2, e, d, f}, mf::GeluTanh{});
  each_load({"attention experts of MoLM", few, 2, attention, d, d}, mf::Identity{});
}

template <class B>
void dense_products(Runner<B>& run) {
  using S = typename B::Scalar;
  if (!run.table("Dense products")) return;
  Index const n = run.size(16384, 24), d = run.size(1024, 40), r = run.size(256, 24), e = run.size(32, 4),
              v = run.size(50295, 301);
  struct Case {
    char const* name;
    Index m, k, n;
  };
  for (Case const c : {Case{"keys or values", n, d, d},
                       {"router, hidden", n, d, r},
                       {"as wide as experts", 2 * n, d, 2 * d},
                       {"vocabulary", run.size(2048, 9), d, v}}) {
    std::string const shape =
        std::string(c.name) + ": " + std::to_string(c.m) + " x " + std::to_string(c.k) + " -> " + std::to_string(c.n);
    run.line("linear", shape, cost::product(c.m, c.k, c.n),
             [=](Arrays<B>& a, Cost&) {
               auto const x = a.random(c.m, c.k), w = a.random(c.n, c.k), y = a.template allocate<S>(c.m, c.n);
               auto const bias = a.random(c.n);
               return [=, &a] { linear(a.backend(), x, w, bias, y); };
             },
             {c.m, c.k, c.n});
    run.line("linear, input gradient", shape, cost::product(c.m, c.n, c.k),
             [=](Arrays<B>& a, Cost&) {
               auto const dy = a.random(c.m, c.n), w = a.random(c.n, c.k), dx = a.template allocate<S>(c.m, c.k);
               return [=, &a] { linear_input_gradient(a.backend(), dy, w, dx, false); };
             },
             {c.m, c.n, c.k});
    run.line("linear, weight gradient", shape, cost::weight_gradient(c.m, c.k, c.n),
             [=](Arrays<B>& a, Cost&) {
               auto const dy = a.random(c.m, c.n), x = a.random(c.m, c.k);
               auto const dw = a.template zeros<float>(c.n, c.k);
               return [=, &a] { linear_weight_gradient(a.backend(), dy, x, 0, dw); };
             },
             {c.n, c.m, c.k});
    run.line("linear, bias gradient", shape, cost::moved(cost::scalar * cost::real(c.m) * cost::real(c.n)),
             [=](Arrays<B>& a, Cost&) {
               auto const dy = a.random(c.m, c.n);
               auto const db = a.template zeros<float>(c.n);
               return [=, &a] { bias_gradient(a.backend(), dy, 0, db); };
             });
  }
  run.line("linear to floats",
           "router, logits: " + std::to_string(n) + " x " + std::to_string(r) + " -> " + std::to_string(e),
           cost::product(n, r, e, cost::sum), [=](Arrays<B>& a, Cost&) {
             auto const x = a.random(n, r), w = a.random(e, r);
             auto const y = a.template allocate<float>(n, e);
             return [=, &a] { linear(a.backend(), x, w, {}, y); };
           });
}

/// Products of 1, 8 and 32 tokens: their floor is the weights that they read.
template <class B>
void decode_products(Runner<B>& run) {
  using S = typename B::Scalar;
  using mf::Rows;
  if (!run.table("Products of a decoding step")) return;
  Index const d = run.size(1024, 40), f = run.size(2048, 72), e = run.size(32, 4), v = run.size(50295, 301), k = 2;
  for (Index const n : {Index{1}, Index{8}, run.size(32, 9)}) {
    cost::Experts const up = cost::experts(n, k, e, d, f), down = cost::experts(n, k, e, f, d);
    std::string const shape = text("N", n) + ", " + text("K", k) + ", " + text("E", e) + ", ";
    run.line("forward: gather, GELU", shape + std::to_string(d) + " -> " + std::to_string(f),
             cost::expert_forward(up, true, false), [=](Arrays<B>& a, Cost& cost) {
               Routed<B> const r(a, n, k, e, Load::even);
               cost::Experts found = up;
               found.touched = r.touched(a);
               cost = cost::expert_forward(found, true, false);
               auto const x = a.random(n, d), y = a.template allocate<S>(n * k, f);
               auto const w = a.random(e, d, f);
               return [=, &a] {
                 expert_forward(a.backend(), r.plan, mf::GeluTanh{}, x, Rows::token, w, {}, {}, y, Rows::sorted);
               };
             });
    run.line("forward: gate, scatter", shape + std::to_string(f) + " -> " + std::to_string(d),
             cost::expert_forward(down, false, false), [=](Arrays<B>& a, Cost& cost) {
               Routed<B> const r(a, n, k, e, Load::even);
               cost::Experts found = down;
               found.touched = r.touched(a);
               cost = cost::expert_forward(found, false, false);
               auto const h = a.random(n * k, f), y = a.template allocate<S>(n * k, d);
               auto const w = a.random(e, f, d);
               return [=, &a] {
                 expert_forward(a.backend(), r.plan, mf::Identity{}, h, Rows::sorted, w, r.slot_gates(), {}, y,
                                Rows::slot);
               };
             });
    run.line("linear to floats", text("N", n) + ", vocabulary: " + std::to_string(d) + " -> " + std::to_string(v),
             cost::product(n, d, v, cost::sum), [=](Arrays<B>& a, Cost&) {
               auto const x = a.random(n, d), w = a.random(v, d);
               auto const y = a.template allocate<float>(n, v);
               return [=, &a] { linear(a.backend(), x, w, {}, y); };
             });
  }
}

}  // namespace bench
