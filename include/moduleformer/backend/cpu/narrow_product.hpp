// SPDX-License-Identifier: MIT
#pragma once
// C = alpha op(A) op(B) + beta C for a few rows (one token at a time): B is read once, in the order in which
// it is stored, and the few rows of C or their partial sums stay in registers and the first-level cache.

#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <algorithm>

namespace moduleformer {

/// Whether a factor of a product is stored transposed.
enum class Trans { no, yes };

namespace detail {

/// Products of at most this many rows are narrow.
inline constexpr Index narrow_rows = 4;

/// c[j] += sum_i x_i b[i][j] over eight rows of B at a time, so that c is read and written once per eight.
template <Real S>
void add_rows(S alpha, S const* MODULEFORMER_RESTRICT a, Index step, S const* MODULEFORMER_RESTRICT b, Index ldb,
              Index k, S* MODULEFORMER_RESTRICT c, Index n) {
  Index i = 0;
  for (; i + 8 <= k; i += 8) {
    S const x0 = alpha * a[i * step], x1 = alpha * a[(i + 1) * step], x2 = alpha * a[(i + 2) * step],
            x3 = alpha * a[(i + 3) * step], x4 = alpha * a[(i + 4) * step], x5 = alpha * a[(i + 5) * step],
            x6 = alpha * a[(i + 6) * step], x7 = alpha * a[(i + 7) * step];
    S const* const r = b + i * ldb;
#pragma omp simd
    for (Index j = 0; j < n; ++j)
      c[j] += ((x0 * r[j] + x1 * r[ldb + j]) + (x2 * r[2 * ldb + j] + x3 * r[3 * ldb + j])) +
              ((x4 * r[4 * ldb + j] + x5 * r[5 * ldb + j]) + (x6 * r[6 * ldb + j] + x7 * r[7 * ldb + j]));
  }
  for (; i < k; ++i) {
    S const x = alpha * a[i * step];
    S const* const r = b + i * ldb;
#pragma omp simd
    for (Index j = 0; j < n; ++j) c[j] += x * r[j];
  }
}

/// Four inner products of one row of A (its elements `step` apart) with consecutive rows of B.
template <Real S>
void inner_products(S const* MODULEFORMER_RESTRICT a, Index step, S const* MODULEFORMER_RESTRICT b, Index ldb, Index k,
                    S* sums) {
  S s0 = 0, s1 = 0, s2 = 0, s3 = 0;
  if (step == 1) {
#pragma omp simd reduction(+ : s0, s1, s2, s3)
    for (Index i = 0; i < k; ++i) {
      s0 += a[i] * b[i];
      s1 += a[i] * b[ldb + i];
      s2 += a[i] * b[2 * ldb + i];
      s3 += a[i] * b[3 * ldb + i];
    }
  } else {
    for (Index i = 0; i < k; ++i) {
      s0 += a[i * step] * b[i];
      s1 += a[i * step] * b[ldb + i];
      s2 += a[i * step] * b[2 * ldb + i];
      s3 += a[i * step] * b[3 * ldb + i];
    }
  }
  sums[0] = s0, sums[1] = s1, sums[2] = s2, sums[3] = s3;
}

template <Real S>
S inner_product(S const* MODULEFORMER_RESTRICT a, Index step, S const* MODULEFORMER_RESTRICT b, Index k) {
  S sum = 0;
  if (step == 1) {
#pragma omp simd reduction(+ : sum)
    for (Index i = 0; i < k; ++i) sum += a[i] * b[i];
  } else {
    for (Index i = 0; i < k; ++i) sum += a[i * step] * b[i];
  }
  return sum;
}

/// The product of gemm.hpp for small m.
template <Real S>
void narrow_product(Trans trans_a, Trans trans_b, Index m, Index n, Index k, S alpha, S const* a, Index lda, S const* b,
                    Index ldb, S beta, S* c, Index ldc) {
  Index const row = trans_a == Trans::no ? lda : 1, step = trans_a == Trans::no ? 1 : lda;
  if (trans_b == Trans::no) {
    // Blocks of eight rows of B are outermost, so that all rows of C use them while they are in the cache.
    if (beta == S(0))
      for (Index r = 0; r < m; ++r) std::fill_n(c + r * ldc, n, S(0));
    for (Index i = 0; i < k; i += 8)
      for (Index r = 0; r < m; ++r)
        add_rows(alpha, a + r * row + i * step, step, b + i * ldb, ldb, std::min<Index>(8, k - i), c + r * ldc, n);
    return;
  }
  Index j = 0;
  for (; j + 4 <= n; j += 4)
    for (Index r = 0; r < m; ++r) {
      S sums[4];
      inner_products(a + r * row, step, b + j * ldb, ldb, k, sums);
      S* const out = c + r * ldc + j;
      for (Index i = 0; i < 4; ++i) out[i] = alpha * sums[i] + (beta == S(0) ? S(0) : out[i]);
    }
  for (; j < n; ++j)
    for (Index r = 0; r < m; ++r) {
      S& out = c[r * ldc + j];
      out = alpha * inner_product(a + r * row, step, b + j * ldb, k) + (beta == S(0) ? S(0) : out);
    }
}

}  // namespace detail

}  // namespace moduleformer
