// SPDX-License-Identifier: MIT
#pragma once
// What routing losses see and give back on the CPU: RoutingStatistics summed over tokens, and the gradient
// of any function of those sums and of the gates with respect to the logits. All in double, over tiles
// of tokens whose partial sums are added in ascending order. log p = logit - lse, since p may underflow.

#include <moduleformer/backend/arguments.hpp>
#include <moduleformer/backend/cpu/cpu.hpp>
#include <moduleformer/backend/cpu/top_k.hpp>
#include <moduleformer/backend/primitive_checks.hpp>
#include <moduleformer/core/error.hpp>

#include <algorithm>

namespace moduleformer {

namespace detail {

/// Partial sums of one tile of tokens: three rows of E, then two numbers.
struct RoutingPartial {
  double* probability;
  double* count;
  double* gate;
  double* negative_entropy;
  double* squared_lse;
  RoutingPartial(double* data, Index experts)
      : probability(data),
        count(data + experts),
        gate(data + 2 * experts),
        negative_entropy(data + 3 * experts),
        squared_lse(data + 3 * experts + 1) {}
  static Index size(Index experts) { return 3 * experts + 2; }
};

/// p log p, 0 at p = 0 even where log p is -infinity.
inline double entropy_term(double p, double log_p) { return p > 0 ? p * log_p : 0.0; }

inline void add_tiles(double const* partials, Index tiles, Index stride, double* out, Index count) {
  std::fill(out, out + count, 0.0);
  for (Index tile = 0; tile < tiles; ++tile)
    for (Index i = 0; i < count; ++i) out[i] += partials[tile * stride + i];
}

}  // namespace detail

/// Every sum of `stats` that is not null, from logits and probs (N,E), lse (N), gates and ids (N,K).
template <Real S>
void sum_routing(Cpu<S>& backend, Arg<Matrix<S const>> logits, Arg<Matrix<S const>> probs, Arg<Vector<S const>> lse,
                 Arg<Matrix<S const>> gates, Matrix<ExpertId const> ids, RoutingStatistics stats) {
  Index const tokens = logits.extent(0), experts = logits.extent(1), chosen = ids.extent(1);
  detail::check_sum_routing(logits, probs, lse, gates, ids, stats);

  Index const tiles = (tokens + detail::routing_tile - 1) / detail::routing_tile;
  Index const stride = detail::RoutingPartial::size(experts);
  Scope const scope{backend.workspace()};
  auto const scratch = backend.workspace().template allocate<double>(tiles, stride);
#pragma omp parallel for num_threads(backend.threads()) if (tiles > 1)
  for (Index tile = 0; tile < tiles; ++tile) {
    std::fill_n(scratch.slice(tile).data(), stride, 0.0);
    detail::RoutingPartial const sum{scratch.slice(tile).data(), experts};
    Index const end = std::min(tokens, (tile + 1) * detail::routing_tile);
    for (Index t = tile * detail::routing_tile; t < end; ++t) {
      S const* const p = probs.slice(t).data();
      S const* const logit = logits.slice(t).data();
      double const row_lse = static_cast<double>(lse[t]);
      for (Index e = 0; e < experts; ++e) sum.probability[e] += static_cast<double>(p[e]);
      double entropy = 0;
      for (Index e = 0; e < experts; ++e)
        entropy += detail::entropy_term(static_cast<double>(p[e]), static_cast<double>(logit[e]) - row_lse);
      *sum.negative_entropy += entropy;
      *sum.squared_lse += row_lse * row_lse;
      for (Index s = 0; s < chosen; ++s) {
        if (ids(t, s) < 0) continue;
        sum.count[ids(t, s)] += 1;
        sum.gate[ids(t, s)] += static_cast<double>(gates(t, s));
      }
    }
  }
  auto const add = [&](double* out, Index first, Index count) {
    if (out != nullptr) detail::add_tiles(scratch.data() + first, tiles, stride, out, count);
  };
  add(stats.probability_sum.data(), 0, experts);
  add(stats.count.data(), experts, experts);
  add(stats.gate_sum.data(), 2 * experts, experts);
  add(stats.negative_entropy_sum, 3 * experts, 1);
  add(stats.squared_lse_sum, 3 * experts + 1, 1);
}

/// dlogits (N,E) = p (v - <p, v>) + 2 grad.squared_lse_sum lse p with
///   v_e = grad.probability_sum_e + grad.negative_entropy_sum log p_e + [e is choice s] (dgate_s + grad.gate_sum_e)
/// (the derivative of p log p is log p + 1; the 1 drops out). dgates and every part of grad may be null.
template <Real S>
void routing_backward(Cpu<S>& backend, Arg<Matrix<S const>> logits, Arg<Matrix<S const>> probs,
                      Arg<Vector<S const>> lse, Matrix<ExpertId const> ids, Arg<Matrix<S const>> dgates,
                      RoutingGradient grad, Arg<Matrix<S>> dlogits) {
  Index const tokens = logits.extent(0), experts = logits.extent(1), chosen = ids.extent(1);
  detail::check_routing_backward(logits, probs, lse, ids, dgates, grad, dlogits);

  double const d_entropy = grad.negative_entropy_sum != nullptr ? *grad.negative_entropy_sum : 0.0;
  double const d_lse = grad.squared_lse_sum != nullptr ? 2.0 * *grad.squared_lse_sum : 0.0;
  Index const tiles = (tokens + detail::routing_tile - 1) / detail::routing_tile;
  Scope const scope{backend.workspace()};
  auto const scratch = backend.workspace().template allocate<double>(backend.threads(), experts);
#pragma omp parallel for num_threads(backend.threads()) if (tiles > 1)
  for (Index tile = 0; tile < tiles; ++tile) {
    double* const pv = scratch.slice(omp_get_thread_num()).data();  // p_e v_e
    Index const end = std::min(tokens, (tile + 1) * detail::routing_tile);
    for (Index t = tile * detail::routing_tile; t < end; ++t) {
      S const* const p = probs.slice(t).data();
      S const* const logit = logits.slice(t).data();
      double const row_lse = static_cast<double>(lse[t]);
      for (Index e = 0; e < experts; ++e) {
        double const pe = static_cast<double>(p[e]);
        double const from_sum = grad.probability_sum ? pe * grad.probability_sum[e] : 0.0;
        pv[e] = from_sum + d_entropy * detail::entropy_term(pe, static_cast<double>(logit[e]) - row_lse);
      }
      for (Index s = 0; s < chosen; ++s) {
        ExpertId const e = ids(t, s);
        if (e < 0) continue;
        double const dgate = dgates ? static_cast<double>(dgates(t, s)) : 0.0;
        pv[e] += static_cast<double>(p[e]) * (dgate + (grad.gate_sum ? grad.gate_sum[e] : 0.0));
      }
      double dot = 0;
      for (Index e = 0; e < experts; ++e) dot += pv[e];
      double const rest = d_lse * row_lse - dot;
      for (Index e = 0; e < experts; ++e)
        dlogits(t, e) = static_cast<S>(pv[e] + static_cast<double>(p[e]) * rest);
    }
  }
}

}  // namespace moduleformer
