// SPDX-License-Identifier: MIT
#pragma once
// Stick-breaking attention as one loop after another in double, from the definition (log form), and its
// gradient; cases and inputs that every backend is tested with.

#include "support.hpp"

#include <moduleformer/backend/arguments.hpp>
#include <moduleformer/backend/backend.hpp>

#include <cmath>
#include <cstdint>
#include <vector>

namespace moduleformer::test {

/// Sizes of one call and its packed sequences.
struct AttentionCase {
  AttentionExtents extents;
  std::vector<Sequence> sequences;
  Index query_tokens = 0, keys = 0;  // rows of the matrices: query_tokens * rows_per_token, keys

  [[nodiscard]] Index width() const { return extents.heads * extents.head_size; }
  [[nodiscard]] Index rows() const { return query_tokens * extents.rows_per_token; }
  [[nodiscard]] Vector<Sequence const> views() const {
    return {sequences.data(), {static_cast<Index>(sequences.size())}};
  }
};

/// One sequence of `queries` tokens at the end of `keys` keys.
inline AttentionCase single(Index queries, Index keys, Index heads, Index head_size, Index slots) {
  return {{heads, head_size, slots, 0}, {{0, queries, 0, keys}}, queries, keys};
}

template <class S>
struct AttentionInputs {
  Array<S, 2> q, k, v, dy;
};

/// Inputs whose logits have about the given mean and deviation (mean through the first column of each head).
inline AttentionInputs<double> random_inputs(AttentionCase const& c, std::uint64_t seed, double mean = -1,
                                             double deviation = 1) {
  AttentionInputs<double> in{Array<double, 2>(c.rows(), c.width()), Array<double, 2>(c.keys, c.width()),
                             Array<double, 2>(c.keys, c.width()), Array<double, 2>(c.rows(), c.width())};
  fill_normal(in.q.values(), seed, deviation);
  fill_normal(in.k.values(), seed + 1);
  fill_normal(in.v.values(), seed + 2);
  fill_normal(in.dy.values(), seed + 3);
  Index const d = c.extents.head_size;
  for (Index h = 0; h < c.extents.heads; ++h) {
    for (Index i = 0; i < c.rows(); ++i) in.q(i, h * d) = 1;
    for (Index j = 0; j < c.keys; ++j) in.k(j, h * d) = mean * std::sqrt(static_cast<double>(d)) + in.k(j, h * d) * 0.5;
  }
  // What a float holds, so that both scalars see the same inputs.
  for (auto* array : {&in.q, &in.k, &in.v, &in.dy})
    for (double& value : array->values()) value = static_cast<double>(static_cast<float>(value));
  return in;
}

template <class S>
AttentionInputs<S> converted(AttentionCase const& c, AttentionInputs<double> const& in) {
  AttentionInputs<S> out{Array<S, 2>(c.rows(), c.width()), Array<S, 2>(c.keys, c.width()),
                         Array<S, 2>(c.keys, c.width()), Array<S, 2>(c.rows(), c.width())};
  for (auto [from, to] : {std::pair{&in.q, &out.q}, {&in.k, &out.k}, {&in.v, &out.v}, {&in.dy, &out.dy}})
    for (std::size_t i = 0; i < from->values().size(); ++i) to->values()[i] = static_cast<S>(from->values()[i]);
  return out;
}

template <class S>
struct AttentionOutputs {
  Array<S, 2> y, log_stick, dq, dk, dv;
  Array<std::int32_t, 2> stop;
  explicit AttentionOutputs(AttentionCase const& c)
      : y(c.rows(), c.width()), log_stick(c.rows(), c.extents.heads), dq(c.rows(), c.width()), dk(c.keys, c.width()),
        dv(c.keys, c.width()), stop(c.rows(), c.extents.heads) {}
};

inline double log_sigmoid(double x) { return x < 0 ? x - std::log1p(std::exp(x)) : -std::log1p(std::exp(-x)); }

/// y, log_stick, dq, dk, dv from the definition.
inline AttentionOutputs<double> reference(AttentionCase const& c, StickBreakingVariant variant,
                                          AttentionInputs<double> const& in) {
  AttentionOutputs<double> out(c);
  Index const d = c.extents.head_size, slots = c.extents.rows_per_token;
  double const scale = 1 / std::sqrt(static_cast<double>(d));
  for (Sequence const& s : c.sequences)
    for (Index h = 0; h < c.extents.heads; ++h)
      for (Index row = s.query_begin * slots; row < (s.query_begin + s.query_count) * slots; ++row) {
        auto const dot = [&](Array<double, 2> const& a, Index i, Array<double, 2> const& b, Index j) {
          double sum = 0;
          for (Index x = h * d; x < (h + 1) * d; ++x) sum += a(i, x) * b(j, x);
          return sum;
        };
        auto const axpy = [&](double factor, Array<double, 2> const& a, Index i, Array<double, 2>& b, Index j) {
          for (Index x = h * d; x < (h + 1) * d; ++x) b(j, x) += factor * a(i, x);
        };
        Index const position = s.key_count - s.query_count + row / slots - s.query_begin;
        Index const end = position + (variant.inclusive ? 1 : 0), own = s.key_begin + position;
        std::vector<double> logit(static_cast<std::size_t>(end)), weight(static_cast<std::size_t>(end));
        double log_stick = 0;
        for (Index j = end; j-- > 0;) {
          double const l = scale * dot(in.q, row, in.k, s.key_begin + j);
          logit[static_cast<std::size_t>(j)] = l;
          weight[static_cast<std::size_t>(j)] = std::exp(log_sigmoid(l) + log_stick);
          log_stick += log_sigmoid(-l);
          axpy(weight[static_cast<std::size_t>(j)], in.v, s.key_begin + j, out.y, row);
        }
        double const rest = variant.keep_remainder ? std::exp(log_stick) : 0.0;
        axpy(rest, in.v, own, out.y, row);
        out.log_stick(row, h) = log_stick;

        double const d_rest = variant.keep_remainder ? dot(in.dy, row, in.v, own) : 0.0;
        axpy(rest, in.dy, row, out.dv, own);
        double prefix = 0;
        for (Index j = 0; j < end; ++j) {
          double const w = weight[static_cast<std::size_t>(j)], l = logit[static_cast<std::size_t>(j)];
          double const g = w * (dot(in.dy, row, in.v, s.key_begin + j) - d_rest);
          double const dl = std::exp(log_sigmoid(-l)) * g - std::exp(log_sigmoid(l)) * prefix;
          prefix += g;
          axpy(scale * dl, in.k, s.key_begin + j, out.dq, row);
          axpy(scale * dl, in.q, row, out.dk, s.key_begin + j);
          axpy(w, in.dy, row, out.dv, s.key_begin + j);
        }
      }
  return out;
}

inline constexpr StickBreakingVariant variants[] = {{true, false}, {true, true}, {false, false}, {false, true}};

/// Lengths around tiles (64 or 128 rows), blocks (64 keys), diagonal blocks and vectors; primes; one.
inline std::vector<AttentionCase> attention_cases() {
  return {
      single(1, 1, 1, 1, 1),     single(2, 2, 1, 3, 2),      single(5, 5, 2, 8, 1),       single(7, 19, 1, 17, 3),
      single(31, 31, 3, 5, 1),   single(33, 33, 1, 16, 4),   single(63, 63, 1, 20, 2),    single(64, 64, 2, 16, 2),
      single(65, 65, 1, 33, 2),  single(127, 127, 1, 4, 1),  single(128, 193, 1, 8, 1),   single(129, 129, 2, 64, 1),
      single(64, 200, 1, 12, 3), single(43, 43, 1, 300, 3),  single(0, 9, 1, 4, 2),       single(4, 131, 2, 7, 2),
      single(9, 64, 1, 16, 1),   single(200, 200, 1, 24, 5),
      // Packed sequences, one without queries, query rows and keys that belong to none.
      {{2, 6, 2, 0}, {{1, 9, 0, 9}, {12, 70, 9, 70}, {82, 0, 79, 3}, {82, 1, 85, 40}}, 90, 130},
  };
}

}  // namespace moduleformer::test
