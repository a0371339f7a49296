// SPDX-License-Identifier: MIT
#pragma once
// Benchmarks of a router's primitives, forward and backward. Their floors are bytes.

#include "runner.hpp"

namespace bench {

/// Sums of a router and the gradient that a loss gives to them.
template <class B>
struct RoutingSums {
  mf::RoutingStatistics sums;
  mf::RoutingGradient gradient;

  RoutingSums(Arrays<B>& a, Index tokens, Index top_k, Index experts)
      : sums{tokens,
             top_k,
             a.template zeros<double>(experts),
             a.template zeros<double>(experts),
             a.template zeros<double>(experts),
             a.template zeros<double>(1).data(),
             a.template zeros<double>(1).data()},
        gradient{a.template zeros<double>(experts), a.template zeros<double>(experts),
                 a.template zeros<double>(1).data(), a.template zeros<double>(1).data()} {}
};

template <class B>
void routing(Runner<B>& run) {
  for (Index const n : {run.size(16384, 24), run.size(65536, 48)}) {
    Index const e = run.size(32, 5), k = 2, p = n * k;
    if (!run.table("Routing, " + text("N", n))) continue;
    std::string const shape = text("E", e) + ", " + text("K", k);
    double const logits = cost::sum * cost::real(n * e), rows = cost::sum * cost::real(n),
                 slots = cost::sum * cost::real(p);
    auto const line = [&](char const* name, double bytes, auto call) {
      run.line(name, shape, cost::moved(bytes), [=](Arrays<B>& a, Cost&) {
        Routed<B> const r(a, n, k, e, Load::skewed);
        return [=, &a] { call(a, r); };
      });
    };
    line("softmax", 2 * logits + rows,
         [](Arrays<B>& a, Routed<B> const& r) { softmax(a.backend(), r.logits, r.probabilities, r.logsumexp); });
    line("top-k", logits + slots,
         [](Arrays<B>& a, Routed<B> const& r) { mf::top_k(a.backend(), r.logits, r.experts); });
    line("gates", 3 * slots,
         [](Arrays<B>& a, Routed<B> const& r) { gather_columns(a.backend(), r.probabilities, r.experts, r.gates); });
    run.line("sort by expert", shape, cost::moved(2 * slots), [=](Arrays<B>& a, Cost&) {
      Routed<B> const r(a, n, k, e, Load::skewed);
      auto const order = a.template allocate<std::int32_t>(p);
      auto const offsets = a.template allocate<Index>(e + 1);
      return [=, &a] { sort_by_expert(a.backend(), r.plan.expert, e, order, offsets); };
    });
    run.line("sums of a router", shape, cost::moved(2 * logits + rows + 2 * slots), [=](Arrays<B>& a, Cost&) {
      Routed<B> const r(a, n, k, e, Load::skewed);
      RoutingSums<B> const s(a, n, k, e);
      return [=, &a] { sum_routing(a.backend(), r.logits, r.probabilities, r.logsumexp, r.gates, r.experts, s.sums); };
    });
    run.line("backward", shape, cost::moved(3 * logits + rows + 2 * slots), [=](Arrays<B>& a, Cost&) {
      Routed<B> const r(a, n, k, e, Load::skewed);
      RoutingSums<B> const s(a, n, k, e);
      auto const dgates = a.template random<float>(n, k);
      auto const dlogits = a.template allocate<float>(n, e);
      return [=, &a] {
        routing_backward(a.backend(), r.logits, r.probabilities, r.logsumexp, r.experts, dgates, s.gradient, dlogits);
      };
    });
  }
}

}  // namespace bench
