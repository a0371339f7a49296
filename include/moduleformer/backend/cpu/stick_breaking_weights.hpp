// SPDX-License-Identifier: MIT
#pragma once
// The attention matrix of one sequence, for observation: slow, in double, in the form of the definition
//   a_ij = exp(log_sigmoid(l_ij) + sum_{j<m<=i} log_sigmoid(-l_im)),  l_ij = q_i.k_j / sqrt(d)
// and so a check of the blocked kernels. Nothing else builds a T x S matrix.

#include <moduleformer/backend/arguments.hpp>
#include <moduleformer/backend/backend.hpp>
#include <moduleformer/backend/cpu/cpu.hpp>
#include <moduleformer/backend/cpu/stick_breaking_tile.hpp>

#include <algorithm>
#include <cmath>

namespace moduleformer {

namespace detail {

/// log(1 / (1 + e^-x)).
inline double log_sigmoid(double x) { return std::min(x, 0.0) - std::log1p(std::exp(-std::abs(x))); }

}  // namespace detail

/// weights (K,H,T,S) of the sequence: query t of slot s and head h on key j; 0 where j is not visible.
template <Real S>
void stick_breaking_weights(Cpu<S>& backend, StickBreakingVariant variant, AttentionExtents extents, Sequence sequence,
                            Arg<Matrix<S const>> q, Arg<Matrix<S const>> k, Arg<TensorView<S, 4>> weights) {
  constexpr char const* where = "stick_breaking_weights";
  detail::check_attention<S>(where, extents, {&sequence, {1}}, q, k, k);
  Index const slots = extents.rows_per_token, heads = extents.heads, d = extents.head_size;
  Index const queries = sequence.query_count, keys = sequence.key_count;
  expects(weights.extents() == typename TensorView<S, 4>::Extents{slots, heads, queries, keys}, where,
          ": expected weights of ", slots, " x ", heads, " x ", queries, " x ", keys);
  double const scale = 1.0 / std::sqrt(static_cast<double>(d));
#pragma omp parallel for num_threads(backend.threads())
  for (Index row = 0; row < slots * heads * queries; ++row) {
    Index const slot = row / (heads * queries), head = row / queries % heads, t = row % queries;
    S const* const query = q.slice((sequence.query_begin + t) * slots + slot).data() + head * d;
    S* const out = weights.data() + row * keys;
    Index const end = keys - queries + t + (variant.inclusive ? 1 : 0);
    std::fill(out + end, out + keys, S(0));
    double log_stick = 0;
    for (Index j = end; j-- > 0;) {
      S const* const key = k.slice(sequence.key_begin + j).data() + head * d;
      double logit = 0;
      for (Index x = 0; x < d; ++x) logit += static_cast<double>(query[x]) * static_cast<double>(key[x]);
      logit *= scale;
      out[j] = static_cast<S>(std::exp(detail::log_sigmoid(logit) + log_stick));
      log_stick += detail::log_sigmoid(-logit);
    }
  }
}

}  // namespace moduleformer
