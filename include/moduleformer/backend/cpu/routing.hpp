// SPDX-License-Identifier: MIT
#pragma once
// Routing primitives of the CPU backend: the row operations here, choosing and sorting in top_k.hpp, sums
// and gradients in routing_sums.hpp. softmax_te = exp(l_te - lse_t), lse_t = max + log sum exp(l - max).

#include <moduleformer/backend/cpu/cpu.hpp>
#include <moduleformer/backend/cpu/routing_sums.hpp>
#include <moduleformer/backend/cpu/top_k.hpp>
#include <moduleformer/core/error.hpp>
#include <moduleformer/core/math.hpp>

#include <algorithm>
#include <cmath>
#include <limits>

namespace moduleformer {

/// probs (N,E) = softmax of the rows of logits; lse (N) = logsumexp (null: not wanted).
template <Real S>
void softmax(Cpu<S>& backend, Arg<Matrix<S const>> logits, Arg<Matrix<S>> probs, Arg<Vector<S>> lse) {
  Index const tokens = logits.extent(0), experts = logits.extent(1);
  detail::expect_matrix("softmax", probs, "probs", logits, experts);
  expects(!lse || lse.extent(0) == tokens, "softmax: expected lse of ", tokens, ", found ", lse.extent(0));
  Index const tiles = (tokens + detail::routing_tile - 1) / detail::routing_tile;
#pragma omp parallel for num_threads(backend.threads()) if (tiles > 1)
  for (Index tile = 0; tile < tiles; ++tile) {
    Index const end = std::min(tokens, (tile + 1) * detail::routing_tile);
    for (Index t = tile * detail::routing_tile; t < end; ++t) {
      S const* const logit = logits.slice(t).data();
      S* const p = probs.slice(t).data();
      S largest = -std::numeric_limits<S>::infinity();
      for (Index e = 0; e < experts; ++e) largest = logit[e] > largest ? logit[e] : largest;
      for (Index e = 0; e < experts; ++e) p[e] = math::exp(logit[e] - largest);
      double sum = 0;
      for (Index e = 0; e < experts; ++e) sum += static_cast<double>(p[e]);
      S const inverse = static_cast<S>(1.0 / sum);
      for (Index e = 0; e < experts; ++e) p[e] *= inverse;
      if (lse) lse[t] = static_cast<S>(static_cast<double>(largest) + math::log(sum));
    }
  }
}

namespace detail {

/// Rows shorter than this are divided by this.
inline constexpr double smallest_norm = 1e-12;

template <Real S>
double dot_row(S const* a, S const* b, Index count) {
  double sum = 0;
  for (Index i = 0; i < count; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

}  // namespace detail

/// y = x / max(|x|, 1e-12) for each row of x (N,R); norms (N) = max(|x|, 1e-12). y may be x.
template <Real S>
void normalise_rows(Cpu<S>& backend, Arg<Matrix<S const>> x, Arg<Matrix<S>> y, Arg<Vector<S>> norms) {
  Index const rows = x.extent(0), width = x.extent(1);
  detail::expect_matrix("normalise_rows", y, "y", x, width);
  expects(norms.extent(0) == rows, "normalise_rows: expected norms of ", rows, ", found ", norms.extent(0));
#pragma omp parallel for num_threads(backend.threads()) if (rows > detail::routing_tile)
  for (Index r = 0; r < rows; ++r) {
    S const* const in = x.slice(r).data();
    S* const out = y.slice(r).data();
    double const norm = std::sqrt(detail::dot_row(in, in, width));
    double const divisor = norm < detail::smallest_norm ? detail::smallest_norm : norm;
    norms[r] = static_cast<S>(divisor);
    S const inverse = static_cast<S>(1.0 / divisor);
    for (Index i = 0; i < width; ++i) out[i] = in[i] * inverse;
  }
}

/// dx = (dy - y <y, dy>) / norm, or dy / 1e-12 where the norm was raised to that.
template <Real S>
void normalise_rows_backward(Cpu<S>& backend, Arg<Matrix<S const>> dy, Arg<Matrix<S const>> y,
                             Arg<Vector<S const>> norms, Arg<Matrix<S>> dx) {
  Index const rows = y.extent(0), width = y.extent(1);
  detail::expect_matrix("normalise_rows_backward", dy, "dy", y, width);
  detail::expect_matrix("normalise_rows_backward", dx, "dx", y, width);
  expects(norms.extent(0) == rows, "normalise_rows_backward: expected norms of ", rows, ", found ", norms.extent(0));
#pragma omp parallel for num_threads(backend.threads()) if (rows > detail::routing_tile)
  for (Index r = 0; r < rows; ++r) {
    S const* const slope = dy.slice(r).data();
    S const* const unit = y.slice(r).data();
    S* const out = dx.slice(r).data();
    bool const raised = norms[r] <= static_cast<S>(detail::smallest_norm);
    S const along = raised ? S(0) : static_cast<S>(detail::dot_row(unit, slope, width));
    S const inverse = S(1) / norms[r];
    for (Index i = 0; i < width; ++i) out[i] = (slope[i] - unit[i] * along) * inverse;
  }
}

}  // namespace moduleformer
