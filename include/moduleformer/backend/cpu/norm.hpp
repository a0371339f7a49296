// SPDX-License-Identifier: MIT
#pragma once
// Layer norm over rows with biased variance, y = (x - mean) / sqrt(var + eps) * weight + bias, and with
// xh = (x - mean) / sqrt(var + eps), g = dy * weight its gradient
//   dx += (g - mean(g) - xh mean(g xh)) / sqrt(var + eps),  dweight += sum_rows dy xh,  dbias += sum_rows dy.
// Statistics and sums over rows in double; the variance from differences to the mean.

#include <moduleformer/backend/cpu/linear.hpp>
#include <moduleformer/backend/cpu/parallel.hpp>
#include <moduleformer/core/error.hpp>

#include <algorithm>
#include <cmath>

namespace moduleformer {

/// x, y (N,D), weight and bias (D); mean (N) and inverse_deviation (N) or null. y may be x.
template <Real S>
void layer_norm(Cpu<S>& backend, Arg<Matrix<S const>> x, Arg<Vector<S const>> weight, Arg<Vector<S const>> bias,
                double epsilon, Arg<Matrix<S>> y, Arg<Vector<S>> mean, Arg<Vector<S>> inverse_deviation) {
  Index const rows = x.extent(0), width = x.extent(1);
  detail::expect_extents("layer_norm", "y", y, rows, width);
  detail::expect_extents("layer_norm", "weight", weight, width);
  detail::expect_extents("layer_norm", "bias", bias, width);
  if (mean) detail::expect_extents("layer_norm", "mean", mean, rows);
  if (inverse_deviation) detail::expect_extents("layer_norm", "inverse_deviation", inverse_deviation, rows);
  detail::parallel_blocks(backend, rows, detail::row_block(width), [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r) {
      S const* const from = x.data() + r * width;
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

}  // namespace detail

/// dy, x (N,D), weight (D), mean and inverse_deviation (N) of forward -> dx (N,D) +=, dweight (D) +=, dbias (D) +=,
/// each of which may be null.
template <Real S>
void layer_norm_backward(Cpu<S>& backend, Arg<Matrix<S const>> dy, Arg<Matrix<S const>> x, Arg<Vector<S const>> weight,
                         Arg<Vector<S const>> mean, Arg<Vector<S const>> inverse_deviation, Arg<Matrix<S>> dx,
                         Arg<Vector<S>> dweight, Arg<Vector<S>> dbias) {
  Index const rows = x.extent(0), width = x.extent(1);
  detail::expect_extents("layer_norm_backward", "dy", dy, rows, width);
  detail::expect_extents("layer_norm_backward", "weight", weight, width);
  detail::expect_extents("layer_norm_backward", "mean", mean, rows);
  detail::expect_extents("layer_norm_backward", "inverse_deviation", inverse_deviation, rows);
  if (dx) detail::expect_extents("layer_norm_backward", "dx", dx, rows, width);
  if (dweight) detail::expect_extents("layer_norm_backward", "dweight", dweight, width);
  if (dbias) detail::expect_extents("layer_norm_backward", "dbias", dbias, width);

  Index const blocks = detail::ceil_divide(rows, detail::norm_rows);
  Scope const scope{backend.workspace()};
  auto const parts = backend.workspace().template allocate<double>(blocks, Index{2}, width);
  detail::parallel_blocks(backend, rows, detail::norm_rows, [&](Index begin, Index end) {
    double* const part = parts.slice(begin / detail::norm_rows).data();
    std::fill_n(part, 2 * width, 0.0);
    for (Index r = begin; r < end; ++r)
      detail::layer_norm_backward_row(dy.data() + r * width, x.data() + r * width, weight.data(), mean[r],
                                      inverse_deviation[r], width, dx ? dx.data() + r * width : nullptr,
                                      dweight ? part : nullptr, dbias ? part + width : nullptr);
  });
  auto const finish = [&](Vector<S> sums, Index which) {
    if (!sums) return;
    detail::parallel_blocks(backend, width, Index{64}, [&](Index begin, Index end) {
      double total[64] = {};
      for (Index b = 0; b < blocks; ++b)
        for (Index i = begin; i < end; ++i) total[i - begin] += parts(b, which, i);
      for (Index i = begin; i < end; ++i) sums[i] += static_cast<S>(total[i - begin]);
    });
  };
  finish(dweight, 0);
  finish(dbias, 1);
}

}  // namespace moduleformer
