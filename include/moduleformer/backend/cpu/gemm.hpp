// SPDX-License-Identifier: MIT
#pragma once
// The one matrix product of the CPU backend: C = alpha op(A) op(B) + beta C, row-major, on the calling
// thread only, without allocating: callers share work by parallel loops over tiles. One to some hundred rows,
// as experts have, are our own loops (narrow_product.hpp, panel_product.hpp); products of more rows are a BLAS's
// with MODULEFORMER_USE_CBLAS, else Eigen's.

#include <moduleformer/backend/cpu/large_product.hpp>
#include <moduleformer/backend/cpu/narrow_product.hpp>
#include <moduleformer/backend/cpu/panel_product.hpp>
#include <moduleformer/core/types.hpp>
#if defined(MODULEFORMER_EXTERN_TEMPLATES)
// Instantiated elsewhere: no need to read Eigen's headers.
#elif defined(MODULEFORMER_USE_CBLAS)
#include <moduleformer/backend/cpu/blas_product.hpp>
#else
#include <moduleformer/backend/cpu/eigen_product.hpp>
#endif

#include <algorithm>
#include <type_traits>

namespace moduleformer {

/// Elements of scratch (64-byte aligned) that gemm needs for any product of at most m x n x k.
template <Real S>
constexpr Index gemm_scratch(Index m, Index n, Index k) {
  using B = detail::LargeBlocks<S>;
  Index const panel = detail::panel_scratch<S>(n, k);
  if (m <= detail::own_rows) return panel;
  return std::max(panel, std::min(k, B::k) * (std::min(m, B::m) + std::min(n, B::n)) + 128);
}

/// C (m,n) = alpha op(A) op(B) + beta C with op(A) (m,k), op(B) (k,n); beta is 0 or 1 and C is not read for
/// beta = 0. lda, ldb, ldc: distance of rows as stored. One thread, no allocation, bits from shapes only.
template <Real S>
void gemm(Trans trans_a, Trans trans_b, Index m, Index n, Index k, std::type_identity_t<S> alpha, S const* a, Index lda,
          std::type_identity_t<S> const* b, Index ldb, std::type_identity_t<S> beta, std::type_identity_t<S>* c,
          Index ldc, std::type_identity_t<S>* scratch) {
  if (m <= 0 || n <= 0) return;
  if (m <= detail::narrow_rows || k <= 0)
    detail::narrow_product(trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
  else if (m <= detail::own_rows)
    detail::panel_product(trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc, scratch);
  else
    detail::large_product(trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc, scratch);
}

#if defined(MODULEFORMER_EXTERN_TEMPLATES)  // compiled elsewhere: cpu/instantiate.hpp
extern template void gemm<float>(Trans, Trans, Index, Index, Index, float, float const*, Index, float const*, Index,
                                 float, float*, Index, float*);
extern template void gemm<double>(Trans, Trans, Index, Index, Index, double, double const*, Index, double const*, Index,
                                  double, double*, Index, double*);
#endif

}  // namespace moduleformer
