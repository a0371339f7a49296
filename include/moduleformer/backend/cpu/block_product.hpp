// SPDX-License-Identifier: MIT
#pragma once
// Products of small blocks that lie in cache, for attention: C (M,N) = or += A (M,K) B (K,N), all row-major
// or A given as its transpose (K,M). N is a multiple of the vector length; nothing is packed: a
// register tile of C gathers broadcast elements of A times vectors of B.

#include <moduleformer/backend/cpu/vectors.hpp>
#include <moduleformer/core/types.hpp>

namespace moduleformer::detail {

enum class Operand { plain, transposed };
enum class Store { overwrite, add };

/// Rows of the register tile: with two vectors a row, the sums take half of the registers.
inline constexpr int tile_rows = vector_registers / 4;

template <int M, int N, Operand operand, Store how, Real S>
inline void register_tile(Index depth, S const* a, Index lda, S const* b, Index ldb, S* c, Index ldc) {
  Lanes<S> sum[M][N] = {};
  for (Index k = 0; k < depth; ++k) {
    Lanes<S> x[N];
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) x[n] = load(b + k * ldb + n * lanes<S>);
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
      S const factor = operand == Operand::plain ? a[m * lda + k] : a[k * lda + m];
#pragma GCC unroll 16
      for (int n = 0; n < N; ++n) sum[m][n] += factor * x[n];
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
      S* const place = c + m * ldc + n * lanes<S>;
      store<S>(how == Store::add ? load(place) + sum[m][n] : sum[m][n], place);
    }
}

/// Rows in tiles of M, what is left in tiles of half that.
template <int M, int N, Operand operand, Store how, Real S>
inline void column_panel(Index rows, Index depth, S const* a, Index lda, S const* b, Index ldb, S* c, Index ldc) {
  for (; rows >= M; rows -= M) {
    register_tile<M, N, operand, how>(depth, a, lda, b, ldb, c, ldc);
    a += operand == Operand::plain ? M * lda : M;
    c += M * ldc;
  }
  if constexpr (M > 1)
    if (rows > 0) column_panel<M / 2, N, operand, how>(rows, depth, a, lda, b, ldb, c, ldc);
}

/// C (rows x columns) from A (rows x depth, or stored depth x rows) and B (depth x columns).
template <Operand operand, Store how, Real S>
void block_product(Index rows, Index columns, Index depth, S const* a, Index lda, S const* b, Index ldb, S* c,
                   Index ldc) {
  Index n = 0;
  for (; n + 2 * lanes<S> <= columns; n += 2 * lanes<S>)
    column_panel<tile_rows, 2, operand, how>(rows, depth, a, lda, b + n, ldb, c + n, ldc);
  if (n < columns) column_panel<tile_rows, 1, operand, how>(rows, depth, a, lda, b + n, ldb, c + n, ldc);
}

}  // namespace moduleformer::detail
