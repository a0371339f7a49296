// SPDX-License-Identifier: MIT
#pragma once
// What primitives of every backend ask of their arguments before they read any: shapes that fit. Errors name the
// primitive, the argument, and both sizes. Nothing here reads backend memory.

#include <moduleformer/backend/arguments.hpp>
#include <moduleformer/core/error.hpp>
#include <moduleformer/core/platform.hpp>

#include <type_traits>

namespace moduleformer {

/// The type of a primitive's parameter: S is deduced from the backend alone, so that views of mutable
/// elements, and {} for an absent one, convert to what is expected.
template <class T>
using Arg = std::type_identity_t<T>;

namespace detail {

constexpr Index ceil_divide(Index a, Index b) { return (a + b - 1) / b; }
constexpr Index round_up(Index a, Index unit) { return ceil_divide(a, unit) * unit; }

template <class A>
void expect_extents(char const* where, char const* what, TensorView<A, 2> found, Index rows, Index columns) {
  expects(found.extent(0) == rows && found.extent(1) == columns, where, ": expected ", what, " of ", rows, " x ",
          columns, ", found ", found.extent(0), " x ", found.extent(1));
}

template <class A>
void expect_extents(char const* where, char const* what, TensorView<A, 1> found, Index size) {
  expects(found.extent(0) == size, where, ": expected ", what, " of ", size, ", found ", found.extent(0));
}

template <class A, class B>
void expect_same(char const* where, char const* what, TensorView<A, 2> found, TensorView<B, 2> like) {
  expect_extents(where, what, found, like.extent(0), like.extent(1));
}

inline void expect_probability(char const* where, Dropout const& drop) {
  expects(drop.probability >= 0 && drop.probability < 1, where, ": expected a dropout probability in [0, 1), found ",
          drop.probability);
}

inline void expect_width(char const* where, Jitter const& jitter) {
  expects(jitter.width >= 0 && jitter.width < 1, where, ": expected a jitter in [0, 1), found ", jitter.width);
}

inline void expect_slots(char const* where, Index slots) {
  expects(slots > 0, where, ": expected at least one slot, found ", slots);
}

/// A sum out[t] = residual[t] + dropout(sum_s y[t*slots+s]).
template <class A, class B, class C>
void expect_combine(char const* where, Index slots, TensorView<A, 2> y, Dropout const& drop, TensorView<B, 2> residual,
                    TensorView<C, 2> out) {
  expect_slots(where, slots);
  expect_extents(where, "y", y, out.extent(0) * slots, out.extent(1));
  expect_same(where, "residual", residual, out);
  expect_probability(where, drop);
}

/// The row of a matrix with map `rows` that belongs to sorted slot p.
constexpr Index row_of(RoutingPlan const& plan, Rows rows, Index p) {
  switch (rows) {
    case Rows::sorted: return p;
    case Rows::slot: return plan.order[p];
    case Rows::token: return plan.order[p] / plan.top_k;
  }
  return p;
}

constexpr Index row_count(RoutingPlan const& plan, Rows rows) {
  return rows == Rows::token ? plan.tokens : plan.slots();
}

inline void expect_plan(char const* where, RoutingPlan const& plan, Index experts) {
  expects(plan.experts == experts && plan.offsets.extent(0) == experts + 1 && plan.order.extent(0) == plan.slots(),
          where, ": expected a plan of ", experts, " experts with ", plan.slots(), " slots, found ", plan.experts,
          " experts, ", plan.offsets.extent(0), " offsets, ", plan.order.extent(0), " slots");
}

template <class A>
void expect_rows(char const* where, char const* what, TensorView<A, 2> found, RoutingPlan const& plan, Rows rows,
                 Index columns) {
  expect_extents(where, what, found, row_count(plan, rows), columns);
}

/// Several slots of one token must not write one row.
inline void expect_distinct(char const* where, RoutingPlan const& plan, Rows rows) {
  expects(rows != Rows::token || plan.top_k <= 1, where,
          ": expected an output row for each slot, found one for each of ", plan.tokens, " tokens with ", plan.top_k,
          " slots");
}

/// Sizes of one attention call, without the sequences, which lie in backend memory.
template <class S>
void expect_attention(char const* where, AttentionExtents const& extents, Matrix<S const> q, Matrix<S const> k,
                      Matrix<S const> v) {
  Index const width = extents.heads * extents.head_size, slots = extents.rows_per_token;
  expects(extents.heads > 0 && extents.head_size > 0 && slots > 0, where, ": expected positive extents, found ",
          extents.heads, " heads of size ", extents.head_size, ", ", slots, " rows per token");
  for (auto const& matrix : {q, k, v})
    expects(matrix.extent(1) == width, where, ": expected ", extents.heads, " heads of size ", extents.head_size,
            ", found rows of ", matrix.extent(1));
  expects(k.extent(0) == v.extent(0), where, ": found ", k.extent(0), " keys but ", v.extent(0), " values");
}

/// A sequence that the host knows.
inline void expect_sequence(char const* where, AttentionExtents const& extents, Sequence const& s, Index query_rows,
                            Index keys) {
  expects(s.query_begin >= 0 && s.query_count >= 0 && s.key_begin >= 0 && s.key_count >= s.query_count &&
              (s.query_begin + s.query_count) * extents.rows_per_token <= query_rows && s.key_begin + s.key_count <= keys,
          where, ": a sequence of queries ", s.query_begin, " + ", s.query_count, ", keys ", s.key_begin, " + ",
          s.key_count, " does not fit ", query_rows, " query rows and ", keys, " keys, or has fewer keys than queries");
}

}  // namespace detail

}  // namespace moduleformer
