// SPDX-License-Identifier: MIT
#pragma once
// Layer norm over rows with biased variance, y = (x - mean) / sqrt(var + eps) * weight + bias, and with
// xh = (x - mean) / sqrt(var + eps), g = dy * weight its gradient
//   dx += (g - mean(g) - xh mean(g xh)) / sqrt(var + eps),  dweight += sum_rows dy xh,  dbias += sum_rows dy.
// Statistics and sums over rows in double; the variance from differences to the mean. What is to be normalised, or dy,
// may be a sum over slots that is added up row by row: the same bits as combine first, one pass over memory.

#include <moduleformer/backend/cpu/elementwise.hpp>
#include <moduleformer/backend/cpu/parallel.hpp>
#include <moduleformer/backend/primitive_checks.hpp>
#include <moduleformer/core/error.hpp>

#include <algorithm>
#include <cmath>

namespace moduleformer {

namespace detail {

/// What layer norm computes a row with, and where a row's results go.
template <Real S>
struct LayerNormRows {
  Vector<S const> weight, bias;
  double epsilon;
  Matrix<S> y;
  Vector<S> mean, inverse_deviation;  // or null

  void check(char const* where) const {
    check_layer_norm<S, S>(where, y, weight, bias, mean, inverse_deviation);
  }

  /// Row r of y from row r of x, which it may be.
  void operator()(Index r, S const* from) const {
    Index const width = y.extent(1);
    S* const to = y.data() + r * width;
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (Index i = 0; i < width; ++i) sum += static_cast<double>(from[i]);
    double const centre = sum / static_cast<double>(width);
    double squares = 0;
#pragma omp simd reduction(+ : squares)
    for (Index i = 0; i < width; ++i) {
      double const difference = static_cast<double>(from[i]) - centre;
      squares += difference * difference;
    }
    S const m = static_cast<S>(centre);
    S const inverse = static_cast<S>(1.0 / std::sqrt(squares / static_cast<double>(width) + epsilon));
#pragma omp simd
    for (Index i = 0; i < width; ++i) to[i] = (from[i] - m) * inverse * weight[i] + bias[i];
    if (mean) mean[r] = m;
    if (inverse_deviation) inverse_deviation[r] = inverse;
  }
};

}  // namespace detail

/// x, y (N,D), weight and bias (D); mean (N) and inverse_deviation (N) or null. y may be x.
template <Real S>
void layer_norm(Cpu<S>& backend, Arg<Matrix<S const>> x, Arg<Vector<S const>> weight, Arg<Vector<S const>> bias,
                double epsilon, Arg<Matrix<S>> y, Arg<Vector<S>> mean, Arg<Vector<S>> inverse_deviation) {
  detail::LayerNormRows<S> const norm{weight, bias, epsilon, y, mean, inverse_deviation};
  detail::expect_same("layer_norm", "y", y, x);
  norm.check("layer_norm");
  Index const width = x.extent(1);
  detail::parallel_blocks(backend, x.extent(0), detail::row_block(width), [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r) norm(r, x.data() + r * width);
  });
}

/// h[t] = residual[t] + dropout(sum_s y[t*slots+s]), s ascending, and out = layer norm of h; y (N*slots,D), residual,
/// h, out (N,D); the others as for layer_norm. h may be residual.
template <Real S>
void combine_layer_norm(Cpu<S>& backend, Index slots, Arg<Matrix<S const>> y, Dropout drop,
                        Arg<Matrix<S const>> residual, Arg<Vector<S const>> weight, Arg<Vector<S const>> bias,
                        double epsilon, Arg<Matrix<S>> h, Arg<Matrix<S>> out, Arg<Vector<S>> mean,
                        Arg<Vector<S>> inverse_deviation) {
  detail::LayerNormRows<S> const norm{weight, bias, epsilon, out, mean, inverse_deviation};
  Index const rows = h.extent(0), width = h.extent(1);
  detail::expect_combine("combine_layer_norm", slots, y, drop, residual, h);
  detail::expect_same("combine_layer_norm", "out", out, h);
  norm.check("combine_layer_norm");
  detail::parallel_blocks(backend, rows, detail::row_block(width), [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r) {
      S* const row = h.data() + r * width;
      detail::combine_row(slots, y.data() + r * slots * width, drop, residual.data() + r * width, row, r, width);
      norm(r, row);
    }
  });
}

namespace detail {

/// Rows whose contributions to dweight and dbias make one partial sum.
inline constexpr Index norm_rows = 32;

/// One row of the backward pass: adds to dx (or not) and to the partial sums (or not).
template <Real S>
void layer_norm_backward_row(S const* dy, S const* x, S const* weight, S mean, S inverse, Index width, S* dx,
                             double* dweight, double* dbias) {
  if (dx != nullptr) {
    double sum_g = 0, sum_gx = 0;
#pragma omp simd reduction(+ : sum_g, sum_gx)
    for (Index i = 0; i < width; ++i) {
      double const g = static_cast<double>(dy[i] * weight[i]);
      sum_g += g;
      sum_gx += g * static_cast<double>((x[i] - mean) * inverse);
    }
    S const mean_g = static_cast<S>(sum_g / static_cast<double>(width));
    S const mean_gx = static_cast<S>(sum_gx / static_cast<double>(width));
#pragma omp simd
    for (Index i = 0; i < width; ++i)
      dx[i] += inverse * (dy[i] * weight[i] - mean_g - (x[i] - mean) * inverse * mean_gx);
  }
  if (dweight != nullptr)
#pragma omp simd
    for (Index i = 0; i < width; ++i) dweight[i] += static_cast<double>(dy[i] * ((x[i] - mean) * inverse));
  if (dbias != nullptr)
#pragma omp simd
    for (Index i = 0; i < width; ++i) dbias[i] += static_cast<double>(dy[i]);
}

/// layer_norm_backward with dy_row(r), the pointer to row r of dy.
template <Real S, class DyRow>
void layer_norm_backward_rows(Cpu<S>& backend, char const* where, DyRow const& dy_row, Matrix<S const> x,
                              Vector<S const> weight, Vector<S const> mean, Vector<S const> inverse_deviation,
                              Matrix<S> dx, Vector<S> dweight, Vector<S> dbias) {
  Index const rows = x.extent(0), width = x.extent(1);
  check_layer_norm_backward(where, x, weight, mean, inverse_deviation, dx, dweight, dbias);

  Index const blocks = ceil_divide(rows, norm_rows);
  Scope const scope{backend.workspace()};
  auto const parts = backend.workspace().template allocate<double>(blocks, Index{2}, width);
  parallel_blocks(backend, rows, norm_rows, [&](Index begin, Index end) {
    double* const part = parts.slice(begin / norm_rows).data();
    std::fill_n(part, 2 * width, 0.0);
    for (Index r = begin; r < end; ++r)
      layer_norm_backward_row(dy_row(r), x.data() + r * width, weight.data(), mean[r], inverse_deviation[r], width,
                              dx ? dx.data() + r * width : nullptr, dweight ? part : nullptr,
                              dbias ? part + width : nullptr);
  });
  auto const finish = [&](Vector<S> sums, Index which) {
    if (!sums) return;
    parallel_blocks(backend, width, Index{64}, [&](Index begin, Index end) {
      double total[64] = {};
      for (Index b = 0; b < blocks; ++b)
        for (Index i = begin; i < end; ++i) total[i - begin] += parts(b, which, i);
      for (Index i = begin; i < end; ++i) sums[i] += static_cast<S>(total[i - begin]);
    });
  };
  finish(dweight, 0);
  finish(dbias, 1);
}

}  // namespace detail

/// dy, x (N,D), weight (D), mean and inverse_deviation (N) of forward -> dx (N,D) +=, dweight (D) +=, dbias (D) +=,
/// each of which may be null.
template <Real S>
void layer_norm_backward(Cpu<S>& backend, Arg<Matrix<S const>> dy, Arg<Matrix<S const>> x, Arg<Vector<S const>> weight,
                         Arg<Vector<S const>> mean, Arg<Vector<S const>> inverse_deviation, Arg<Matrix<S>> dx,
                         Arg<Vector<S>> dweight, Arg<Vector<S>> dbias) {
  detail::expect_same("layer_norm_backward", "dy", dy, x);
  detail::layer_norm_backward_rows<S>(
      backend, "layer_norm_backward", [&](Index r) { return dy.data() + r * x.extent(1); }, x, weight, mean,
      inverse_deviation, dx, dweight, dbias);
}

/// The same with dy[t] = residual[t] + sum_s y[t*slots+s], s ascending; residual (N,D), y (N*slots,D).
template <Real S>
void combine_layer_norm_backward(Cpu<S>& backend, Index slots, Arg<Matrix<S const>> y, Arg<Matrix<S const>> residual,
                                 Arg<Matrix<S const>> x, Arg<Vector<S const>> weight, Arg<Vector<S const>> mean,
                                 Arg<Vector<S const>> inverse_deviation, Arg<Matrix<S>> dx, Arg<Vector<S>> dweight,
                                 Arg<Vector<S>> dbias) {
  detail::expect_combine("combine_layer_norm_backward", slots, y, {}, residual, x);
  Index const width = x.extent(1);
  Scope const scope{backend.workspace()};
  auto const rows = detail::thread_scratch<S>(backend, width);
  auto const dy_row = [&](Index r) -> S const* {
    S* const row = rows.slice(omp_get_thread_num()).data();
    detail::combine_row(slots, y.data() + r * slots * width, {}, residual.data() + r * width, row, r, width);
    return row;
  };
  detail::layer_norm_backward_rows<S>(backend, "combine_layer_norm_backward", dy_row, x, weight, mean,
                                      inverse_deviation, dx, dweight, dbias);
}

}  // namespace moduleformer
