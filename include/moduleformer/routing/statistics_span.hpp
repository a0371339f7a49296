// SPDX-License-Identifier: MIT
#pragma once
// Over what a routing loss's statistics run, when a step has several micro-batches; policies of role StatisticsSpan.
//   micro_batch  each micro-batch on its own, as published
//   streaming    switch and importance with the counts and gates so far in this step, mutual information and concentration
//                with p(e) of the step before: an estimate, at no cost (the first step uses its own)
//   whole_batch  all micro-batches of the step: they run forward once before, then the loss of the totals is differentiated
//                as exactly as for one batch of all of them
// A loss sees RoutingStatistics that are scaled to the micro-batch's tokens, so no loss knows of this.

#include <moduleformer/core/dynamic_policy.hpp>
#include <moduleformer/routing/routing_totals.hpp>

namespace moduleformer {

enum class Span { micro_batch, streaming, whole_batch };

template <Span over>
struct BasicStatistics {
  using Role = role::StatisticsSpan;
  static constexpr std::string_view name = over == Span::micro_batch ? "micro_batch"
                                           : over == Span::streaming ? "streaming"
                                                                     : "whole_batch";
  static constexpr Span span = over;
};
using MicroBatchStatistics = BasicStatistics<Span::micro_batch>;
using StreamingStatistics = BasicStatistics<Span::streaming>;
using WholeBatchStatistics = BasicStatistics<Span::whole_batch>;

template <class Policy>
constexpr Span span_of(Policy const& policy) {
  return with_policy(policy, []<class Concrete>(Concrete const&) { return Concrete::span; });
}

namespace detail {

/// seen = what the loss sees; *weight = what its gradient is multiplied by, so that the micro-batches' mean is right.
struct SpanStatistics {
  Span span;
  RoutingStatistics pass;
  RouterTotals totals;
  RoutingStatistics seen;
  double* weight;

  MODULEFORMER_HOST_DEVICE void operator()() const {
    double const n = static_cast<double>(pass.tokens), scale = n / *totals.tokens;
    bool const whole = span == Span::whole_batch;
    for (Index e = 0; e < pass.experts(); ++e) {
      seen.count[e] = totals.count[e] * scale;
      seen.gate_sum[e] = totals.gate_sum[e] * scale;
      seen.probability_sum[e] = whole                      ? totals.probability_sum[e] * scale
                                : *totals.has_previous > 0 ? totals.previous[e] * n
                                                           : pass.probability_sum[e];
    }
    *seen.negative_entropy_sum = whole ? *totals.negative_entropy_sum * scale : *pass.negative_entropy_sum;
    *seen.squared_lse_sum = whole ? *totals.squared_lse_sum * scale : *pass.squared_lse_sum;
    *weight = whole ? *totals.passes * scale : 1;
  }
};

}  // namespace detail

}  // namespace moduleformer
