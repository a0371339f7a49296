// SPDX-License-Identifier: MIT
#pragma once
// What single primitives ask of their arguments' sizes, the same on every backend: experts, layer norm, routing sums,
// cross-entropy. Nothing here reads backend memory.

#include <moduleformer/backend/checks.hpp>

namespace moduleformer::detail {

inline void expect_slot_numbers(char const* where, char const* what, Index slots, Index found, bool given) {
  expects(!given || found == slots, where, ": expected ", what, " of ", slots, " slots, found ", found);
}

template <class S, class A>
void check_expert_forward(RoutingPlan const& plan, Matrix<S const> x, Rows x_rows, TensorView<S const, 3> weight,
                          Vector<A const> gate, Matrix<S> pre, Matrix<S> y, Rows y_rows) {
  constexpr char const* where = "expert_forward";
  Index const k = weight.extent(1), n = weight.extent(2);
  expect_plan(where, plan, weight.extent(0));
  expect_rows(where, "x", x, plan, x_rows, k);
  expect_rows(where, "y", y, plan, y_rows, n);
  if (pre) expect_rows(where, "pre", pre, plan, Rows::sorted, n);
  expect_slot_numbers(where, "gates", plan.slots(), gate.extent(0), static_cast<bool>(gate));
  expect_distinct(where, plan, y_rows);
}

template <class S>
void check_expert_input_gradient(RoutingPlan const& plan, Matrix<S const> dy, Rows dy_rows,
                                 TensorView<S const, 3> weight, Matrix<S> dx, Rows dx_rows) {
  constexpr char const* where = "expert_input_gradient";
  expect_plan(where, plan, weight.extent(0));
  expect_rows(where, "dy", dy, plan, dy_rows, weight.extent(2));
  expect_rows(where, "dx", dx, plan, dx_rows, weight.extent(1));
  expect_distinct(where, plan, dx_rows);
}

template <class S, class A>
void check_expert_backward(RoutingPlan const& plan, Matrix<S const> dy, Rows dy_rows, TensorView<S const, 3> weight,
                           Vector<A const> gate, Matrix<S const> z, Rows z_rows, Vector<A> dgate, Matrix<S> dz,
                           Matrix<S> scaled) {
  constexpr char const* where = "expert_backward";
  Index const k = weight.extent(1), n = weight.extent(2);
  expect_plan(where, plan, weight.extent(0));
  expect_rows(where, "dy", dy, plan, dy_rows, n);
  expect_rows(where, "z", z, plan, z_rows, k);
  if (dz) expect_rows(where, "dz", dz, plan, z_rows, k);
  if (scaled) expect_rows(where, "scaled", scaled, plan, z_rows, k);
  expect_slot_numbers(where, "gates", plan.slots(), gate.extent(0), static_cast<bool>(gate));
  expect_slot_numbers(where, "dgates", plan.slots(), dgate.extent(0), static_cast<bool>(dgate));
  expects(z_rows != Rows::token || plan.top_k <= 1, where, ": expected a row of z for each slot");
}

template <class S, class A>
void check_expert_weight_gradient(RoutingPlan const& plan, Matrix<S const> x, Rows x_rows, Matrix<S const> dy,
                                  Rows dy_rows, Index first, TensorView<A, 3> dweight) {
  constexpr char const* where = "expert_weight_gradient";
  Index const end = first + dweight.extent(0);
  expect_plan(where, plan, plan.experts);
  expect_rows(where, "x", x, plan, x_rows, dweight.extent(1));
  expect_rows(where, "dy", dy, plan, dy_rows, dweight.extent(2));
  expects(first >= 0 && end <= plan.experts, where, ": expected experts ", first, " to ", end, ", found ", plan.experts);
}

template <class S, class A>
void check_layer_norm(char const* where, Matrix<S const> x, Vector<S const> weight, Vector<S const> bias,
                      Vector<A> mean, Vector<A> inverse_deviation) {
  Index const rows = x.extent(0), width = x.extent(1);
  expect_extents(where, "weight", weight, width);
  expect_extents(where, "bias", bias, width);
  if (mean) expect_extents(where, "mean", mean, rows);
  if (inverse_deviation) expect_extents(where, "inverse_deviation", inverse_deviation, rows);
}

template <class S, class A>
void check_layer_norm_backward(char const* where, Matrix<S const> x, Vector<S const> weight, Vector<A const> mean,
                               Vector<A const> inverse_deviation, Matrix<S> dx, Vector<A> dweight, Vector<A> dbias) {
  Index const rows = x.extent(0), width = x.extent(1);
  expect_extents(where, "weight", weight, width);
  expect_extents(where, "mean", mean, rows);
  expect_extents(where, "inverse_deviation", inverse_deviation, rows);
  if (dx) expect_same(where, "dx", dx, x);
  if (dweight) expect_extents(where, "dweight", dweight, width);
  if (dbias) expect_extents(where, "dbias", dbias, width);
}

template <class A>
void check_sum_routing(Matrix<A const> logits, Matrix<A const> probs, Vector<A const> lse, Matrix<A const> gates,
                       Matrix<ExpertId const> ids, RoutingStatistics const& stats) {
  constexpr char const* where = "sum_routing";
  Index const tokens = logits.extent(0), experts = logits.extent(1), chosen = ids.extent(1);
  expect_extents(where, "probs", probs, tokens, experts);
  expect_extents(where, "ids", ids, tokens, chosen);
  expect_extents(where, "gates", gates, tokens, chosen);
  expect_extents(where, "lse", lse, tokens);
  for (auto const& sums : {stats.probability_sum, stats.count, stats.gate_sum})
    expects(!sums || sums.extent(0) == experts, where, ": expected sums of ", experts, " experts, found ",
            sums.extent(0));
}

template <class A>
void check_routing_backward(Matrix<A const> logits, Matrix<A const> probs, Vector<A const> lse,
                            Matrix<ExpertId const> ids, Matrix<A const> dgates, RoutingGradient const& grad,
                            Matrix<A> dlogits) {
  constexpr char const* where = "routing_backward";
  Index const tokens = logits.extent(0), experts = logits.extent(1), chosen = ids.extent(1);
  expect_extents(where, "probs", probs, tokens, experts);
  expect_extents(where, "ids", ids, tokens, chosen);
  expect_extents(where, "dlogits", dlogits, tokens, experts);
  if (dgates) expect_extents(where, "dgates", dgates, tokens, chosen);
  expect_extents(where, "lse", lse, tokens);
  for (auto const& part : {grad.probability_sum, grad.gate_sum})
    expects(!part || part.extent(0) == experts, where, ": expected a gradient of ", experts, " experts, found ",
            part.extent(0));
}

template <class A>
void check_pools(Index smallest, Index largest, Matrix<A const> probabilities, Matrix<A> logits) {
  expect_same("restrict_to_pools", "probabilities", probabilities, logits);
  expects(smallest > 0 && smallest <= largest && largest <= logits.extent(1), "restrict_to_pools: expected pools of 1 to ",
          logits.extent(1), " experts, found ", smallest, " to ", largest);
}

template <class A>
void check_expert_choice(Matrix<A const> scores, Index capacity, Matrix<ExpertId> ids) {
  expect_extents("expert_choice", "ids", ids, scores.extent(0), ids.extent(1));
  expects(capacity >= 0 && capacity <= scores.extent(0), "expert_choice: expected a capacity of 0 to ", scores.extent(0),
          " tokens, found ", capacity);
}

template <class A>
void check_chosen_gates(char const* where, Matrix<A const> logits, Matrix<ExpertId const> ids, Matrix<A const> gates) {
  expect_extents(where, "ids", ids, logits.extent(0), ids.extent(1));
  expect_extents(where, "gates", gates, logits.extent(0), ids.extent(1));
}

template <class A>
void check_chosen_gates_backward(Matrix<A const> logits, Matrix<ExpertId const> ids, Matrix<A const> gates, Matrix<A const> dgates,
                                 Vector<double const> gate_sum, Matrix<A> dlogits) {
  constexpr char const* where = "chosen_gates_backward";
  check_chosen_gates(where, logits, ids, gates);
  if (dgates) expect_extents(where, "dgates", dgates, logits.extent(0), ids.extent(1));
  if (gate_sum) expect_extents(where, "gate_sum", gate_sum, logits.extent(1));
  expect_same(where, "dlogits", dlogits, logits);
}

template <class S, class A>
void check_cross_entropy(Matrix<S const> x, Matrix<S const> weight, Vector<TokenId const> labels, Matrix<S> dx,
                         Matrix<A> dweight) {
  constexpr char const* where = "cross_entropy";
  Index const rows = x.extent(0), width = x.extent(1), vocabulary = weight.extent(0);
  expect_extents(where, "weight", weight, vocabulary, width);
  expect_extents(where, "labels", labels, rows);
  if (dx) expect_extents(where, "dx", dx, rows, width);
  if (dweight) expect_extents(where, "dweight", dweight, vocabulary, width);
}

}  // namespace moduleformer::detail
