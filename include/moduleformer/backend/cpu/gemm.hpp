// SPDX-License-Identifier: MIT
#pragma once
// The one matrix product of the CPU backend: C = alpha op(A) op(B) + beta C, row-major, on the calling
// thread only, without allocating: callers share work by parallel loops over tiles. It is Eigen's blocked
// kernel with packing buffers and block sizes of ours (deterministic, from shapes), or a BLAS with
// MODULEFORMER_USE_CBLAS (and MODULEFORMER_USE_OPENBLAS, _MKL or _BLIS, which keeps that one single-threaded).
// Products of few rows go to narrow_product.hpp.

#include <moduleformer/backend/cpu/narrow_product.hpp>
#include <moduleformer/backend/cpu/parallel.hpp>
#include <moduleformer/core/types.hpp>

#if defined(MODULEFORMER_USE_CBLAS)
#if defined(MODULEFORMER_USE_MKL)
#include <mkl_cblas.h>
#else
#include <cblas.h>
#endif
#else
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // in the compiler's own AVX-512 intrinsics (GCC bug 105593)
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <Eigen/Core>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
#endif

#include <algorithm>
#include <type_traits>

#if defined(MODULEFORMER_USE_OPENBLAS)
extern "C" void openblas_set_num_threads(int);
#elif defined(MODULEFORMER_USE_MKL)
extern "C" int MKL_Set_Num_Threads_Local(int);
#elif defined(MODULEFORMER_USE_BLIS)
#include <blis.h>
#endif

namespace moduleformer {

namespace detail {

/// Largest block sizes: a panel of kc x nc of B lies in the second-level cache, mc x kc of A beside it.
/// They bound the packing buffers, so that any product of at most m x n x k fits the scratch for m, n, k.
template <Real S>
struct GemmBlocks {
  static constexpr Index k = 256;
  static constexpr Index n = std::is_same_v<S, float> ? 480 : 240;
  static constexpr Index m = 512;
  static constexpr Index slack = 64;
};

#if defined(MODULEFORMER_USE_CBLAS)

inline void keep_blas_sequential() {
#if defined(MODULEFORMER_USE_OPENBLAS)
  static bool const once = (openblas_set_num_threads(1), true);
  static_cast<void>(once);
#elif defined(MODULEFORMER_USE_MKL)
  thread_local bool const once = (MKL_Set_Num_Threads_Local(1), true);
  static_cast<void>(once);
#elif defined(MODULEFORMER_USE_BLIS)
  thread_local bool const once = (bli_thread_set_num_threads(1), true);
  static_cast<void>(once);
#endif
}

template <Real S>
void blocked_product(Trans trans_a, Trans trans_b, Index m, Index n, Index k, S alpha, S const* a, Index lda, S const* b,
                     Index ldb, S beta, S* c, Index ldc, S*) {
  keep_blas_sequential();
  auto const side = [](Trans trans) { return trans == Trans::yes ? CblasTrans : CblasNoTrans; };
  auto const narrow = [](Index i) { return static_cast<int>(i); };
  if constexpr (std::is_same_v<S, float>)
    cblas_sgemm(CblasRowMajor, side(trans_a), side(trans_b), narrow(m), narrow(n), narrow(k), alpha, a, narrow(lda), b,
                narrow(ldb), beta, c, narrow(ldc));
  else
    cblas_dgemm(CblasRowMajor, side(trans_a), side(trans_b), narrow(m), narrow(n), narrow(k), alpha, a, narrow(lda), b,
                narrow(ldb), beta, c, narrow(ldc));
}

#else

/// Eigen's blocking with our buffers: its own one allocates.
template <Real S>
class ScratchBlocking : public Eigen::internal::level3_blocking<S, S> {
 public:
  // Row-major C is column-major C^T = op(B)^T op(A)^T: Eigen's left side is B, its right side A.
  ScratchBlocking(Index m, Index n, Index k, S* scratch) {
    using B = GemmBlocks<S>;
    this->m_kc = even_block(k, B::k, 8);
    this->m_mc = even_block(n, B::n, Eigen::internal::gebp_traits<S, S>::mr);
    this->m_nc = even_block(m, B::m, Eigen::internal::gebp_traits<S, S>::nr);
    this->m_blockA = scratch;
    this->m_blockB = scratch + (this->m_kc * this->m_mc + B::slack - 1) / B::slack * B::slack;
  }
};

template <int OrderB, int OrderA, Real S>
void eigen_product(Index m, Index n, Index k, S alpha, S const* a, Index lda, S const* b, Index ldb, S* c, Index ldc,
                   ScratchBlocking<S>& blocking) {
  Eigen::internal::general_matrix_matrix_product<Index, S, OrderB, false, S, OrderA, false, Eigen::ColMajor, 1>::run(
      n, m, k, b, ldb, a, lda, c, 1, ldc, alpha, blocking, nullptr);
}

template <Real S>
void blocked_product(Trans trans_a, Trans trans_b, Index m, Index n, Index k, S alpha, S const* a, Index lda, S const* b,
                     Index ldb, S beta, S* c, Index ldc, S* scratch) {
  if (beta == S(0))  // the kernel adds
    for (Index i = 0; i < m; ++i) std::fill_n(c + i * ldc, n, S(0));
  ScratchBlocking<S> blocking{m, n, k, scratch};
  constexpr int column = Eigen::ColMajor, row = Eigen::RowMajor;
  if (trans_a == Trans::no && trans_b == Trans::no)
    eigen_product<column, column>(m, n, k, alpha, a, lda, b, ldb, c, ldc, blocking);
  else if (trans_a == Trans::no)
    eigen_product<row, column>(m, n, k, alpha, a, lda, b, ldb, c, ldc, blocking);
  else if (trans_b == Trans::no)
    eigen_product<column, row>(m, n, k, alpha, a, lda, b, ldb, c, ldc, blocking);
  else
    eigen_product<row, row>(m, n, k, alpha, a, lda, b, ldb, c, ldc, blocking);
}

#endif

}  // namespace detail

/// Elements of scratch (64-byte aligned) that gemm needs for any product of at most m x n x k.
template <Real S>
constexpr Index gemm_scratch(Index m, Index n, Index k) {
  using B = detail::GemmBlocks<S>;
  return std::min(k, B::k) * (std::min(m, B::m) + std::min(n, B::n)) + 3 * B::slack;
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
  else
    detail::blocked_product(trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc, scratch);
}

}  // namespace moduleformer
