// SPDX-License-Identifier: MIT
#pragma once
// Dense layers with W (N,K) as PyTorch's Linear stores it: y = x W^T + bias, dx = dy W,
// dW += dy^T x, db += column sums of dy. Parallel over tiles of the output; where that is small, the
// weight gradient cuts the rows it sums over into parts whose products are added in ascending order.

#include <moduleformer/backend/cpu/gemm.hpp>
#include <moduleformer/backend/cpu/parallel.hpp>
#include <moduleformer/core/error.hpp>

#include <algorithm>

namespace moduleformer {

namespace detail {

/// C (m,n) = op(A) op(B) + beta C in parallel tiles; finish(row, rows, column, columns) follows each.
template <Real S, class Finish>
void tiled_product(Cpu<S>& backend, Trans trans_a, Trans trans_b, Index m, Index n, Index k, S const* a, Index lda,
                   S const* b, Index ldb, S beta, S* c, Index ldc, Finish const& finish) {
  TileGrid const tile = choose_tiles(m, n, k);
  Index const across = ceil_divide(n, tile.columns), tiles = ceil_divide(m, tile.rows) * across;
  Scope const scope{backend.workspace()};
  auto const scratch = thread_scratch<S>(backend, gemm_scratch<S>(tile.rows, tile.columns, k));
#pragma omp parallel for num_threads(backend.threads()) schedule(dynamic) if (tiles > 1)
  for (Index t = 0; t < tiles; ++t) {
    Index const i = t / across * tile.rows, j = t % across * tile.columns;
    Index const rows = std::min(tile.rows, m - i), columns = std::min(tile.columns, n - j);
    gemm<S>(trans_a, trans_b, rows, columns, k, S(1), a + (trans_a == Trans::no ? i * lda : i), lda,
            b + (trans_b == Trans::no ? j : j * ldb), ldb, beta, c + i * ldc + j, ldc,
            scratch.slice(omp_get_thread_num()).data());
    finish(i, rows, j, columns);
  }
}

/// Tiles of a weight gradient: not so small that packing them costs more than multiplying.
constexpr TileGrid weight_tiles(Index n, Index k, Index rows, Index copies = 1) {
  return choose_tiles(n, k, rows, copies, {64, 128});
}

/// Parts that the `rows` terms of a weight gradient are cut into: enough for wanted_tiles, of 256 rows or more.
constexpr Index contraction_parts(Index n, Index k, Index rows) {
  TileGrid const tile = weight_tiles(n, k, rows);
  Index const tiles = ceil_divide(n, tile.rows) * ceil_divide(k, tile.columns);
  return std::clamp<Index>(wanted_tiles / std::max<Index>(tiles, 1), 1, std::max<Index>(1, rows / 256));
}

/// sums (n) += column sums of x (M, stride) at columns first..first+n: parts of rows in double, added in
/// ascending order.
template <Real S>
void add_column_sums(Cpu<S>& backend, Matrix<S const> x, Index first, Vector<S> sums) {
  constexpr Index block = 128;
  Index const m = x.extent(0), n = sums.extent(0), blocks = ceil_divide(m, block);
  Scope const scope{backend.workspace()};
  auto const parts = backend.workspace().template allocate<double>(blocks, n);
  parallel_blocks(backend, m, block, [&](Index begin, Index end) {
    double* const part = parts.slice(begin / block).data();
    std::fill_n(part, n, 0.0);
    for (Index i = begin; i < end; ++i) {
      S const* const row = x.slice(i).data() + first;
#pragma omp simd
      for (Index j = 0; j < n; ++j) part[j] += static_cast<double>(row[j]);
    }
  });
  for (Index b = 1; b < blocks; ++b)
#pragma omp simd
    for (Index j = 0; j < n; ++j) parts[j] += parts[b * n + j];
  if (blocks > 0)
    for (Index j = 0; j < n; ++j) sums[j] += static_cast<S>(parts[j]);
}

}  // namespace detail

/// y (M,N) = x (M,K) W^T + bias, W (N,K), bias (N) or null.
template <Real S>
void linear(Cpu<S>& backend, Arg<Matrix<S const>> x, Arg<Matrix<S const>> weight, Arg<Vector<S const>> bias,
            Arg<Matrix<S>> y) {
  Index const m = x.extent(0), k = x.extent(1), n = weight.extent(0);
  detail::expect_extents("linear", "weight", weight, n, k);
  detail::expect_extents("linear", "y", y, m, n);
  if (bias) detail::expect_extents("linear", "bias", bias, n);
  detail::tiled_product(backend, Trans::no, Trans::yes, m, n, k, x.data(), k, weight.data(), k, S(0), y.data(), n,
                        [&](Index i, Index rows, Index j, Index columns) {
                          if (!bias) return;
                          for (Index r = i; r < i + rows; ++r) {
                            S* const row = y.data() + r * n;
#pragma omp simd
                            for (Index c = j; c < j + columns; ++c) row[c] += bias[c];
                          }
                        });
}

/// dx (M,K) = dy (M,N) W (N,K), or += with `accumulate`.
template <Real S>
void linear_input_gradient(Cpu<S>& backend, Arg<Matrix<S const>> dy, Arg<Matrix<S const>> weight, Arg<Matrix<S>> dx,
                           bool accumulate) {
  Index const m = dy.extent(0), n = dy.extent(1), k = weight.extent(1);
  detail::expect_extents("linear_input_gradient", "weight", weight, n, k);
  detail::expect_extents("linear_input_gradient", "dx", dx, m, k);
  detail::tiled_product(backend, Trans::no, Trans::no, m, k, n, dy.data(), n, weight.data(), k, S(accumulate ? 1 : 0),
                        dx.data(), k, [](Index, Index, Index, Index) {});
}

/// dW (n,K) += dy[:, first:first+n]^T x with dy (M,N), x (M,K).
template <Real S>
void linear_weight_gradient(Cpu<S>& backend, Arg<Matrix<S const>> dy, Arg<Matrix<S const>> x, Index first,
                            Arg<Matrix<S>> dweight) {
  Index const m = dy.extent(0), n = dweight.extent(0), k = x.extent(1), stride = dy.extent(1);
  detail::expect_extents("linear_weight_gradient", "x", x, m, k);
  detail::expect_extents("linear_weight_gradient", "dweight", dweight, n, k);
  expects(first >= 0 && first + n <= stride, "linear_weight_gradient: expected columns ", first, " to ", first + n,
          " of dy, found ", stride);
  Index const parts = detail::contraction_parts(n, k, m);
  if (parts == 1) {
    detail::tiled_product(backend, Trans::yes, Trans::no, n, k, m, dy.data() + first, stride, x.data(), k, S(1),
                          dweight.data(), k, [](Index, Index, Index, Index) {});
    return;
  }
  detail::TileGrid const tile = detail::weight_tiles(n, k, m);
  Index const down = detail::ceil_divide(n, tile.rows), across = detail::ceil_divide(k, tile.columns);
  Index const depth = detail::round_up(detail::ceil_divide(m, parts), Index{8});
  Scope const scope{backend.workspace()};
  auto const partial = backend.workspace().template allocate<S>(parts, n, k);
  auto const scratch = detail::thread_scratch<S>(backend, gemm_scratch<S>(tile.rows, tile.columns, depth));
#pragma omp parallel for num_threads(backend.threads()) schedule(dynamic)
  for (Index t = 0; t < parts * down * across; ++t) {
    Index const part = t / (down * across), i = t / across % down * tile.rows, j = t % across * tile.columns;
    Index const begin = std::min(m, part * depth), end = std::min(m, begin + depth);
    gemm<S>(Trans::yes, Trans::no, std::min(tile.rows, n - i), std::min(tile.columns, k - j), end - begin, S(1),
            dy.data() + begin * stride + first + i, stride, x.data() + begin * k + j, k, S(0),
            partial.slice(part).data() + i * k + j, k, scratch.slice(omp_get_thread_num()).data());
  }
  detail::parallel_blocks(backend, n * k, detail::elementwise_block, [&](Index begin, Index end) {
    for (Index part = 0; part < parts; ++part) {
      S const* const from = partial.slice(part).data();
#pragma omp simd
      for (Index i = begin; i < end; ++i) dweight[i] += from[i];
    }
  });
}

/// db (n) += column sums of dy[:, first:first+n].
template <Real S>
void bias_gradient(Cpu<S>& backend, Arg<Matrix<S const>> dy, Index first, Arg<Vector<S>> dbias) {
  expects(first >= 0 && first + dbias.extent(0) <= dy.extent(1), "bias_gradient: expected columns ", first, " to ",
          first + dbias.extent(0), " of dy, found ", dy.extent(1));
  detail::add_column_sums<S>(backend, dy, first, dbias);
}

}  // namespace moduleformer
