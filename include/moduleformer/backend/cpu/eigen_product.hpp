// SPDX-License-Identifier: MIT
#pragma once
// Eigen's blocked matrix product for gemm.hpp, with packing buffers and block sizes of ours (deterministic, from
// shapes), so that it neither allocates nor starts threads. Only included where products are instantiated.

#include <moduleformer/backend/cpu/large_product.hpp>
#include <moduleformer/backend/cpu/narrow_product.hpp>
#include <moduleformer/backend/cpu/parallel.hpp>

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // in the compiler's own AVX-512 intrinsics (GCC bug 105593)
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <Eigen/Core>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#include <algorithm>

namespace moduleformer::detail {

template <Real S>
class ScratchBlocking : public Eigen::internal::level3_blocking<S, S> {
 public:
  // Row-major C is column-major C^T = op(B)^T op(A)^T: Eigen's left side is B, its right side A.
  ScratchBlocking(Index m, Index n, Index k, S* scratch) {
    using B = LargeBlocks<S>;
    this->m_kc = even_block(k, B::k, 8);
    this->m_mc = even_block(n, B::n, Eigen::internal::gebp_traits<S, S>::mr);
    this->m_nc = even_block(m, B::m, Eigen::internal::gebp_traits<S, S>::nr);
    this->m_blockA = scratch;
    this->m_blockB = scratch + round_up(this->m_kc * this->m_mc, 64);
  }
};

template <int OrderB, int OrderA, Real S>
void eigen_product(Index m, Index n, Index k, S alpha, S const* a, Index lda, S const* b, Index ldb, S* c, Index ldc,
                   ScratchBlocking<S>& blocking) {
  Eigen::internal::general_matrix_matrix_product<Index, S, OrderB, false, S, OrderA, false, Eigen::ColMajor, 1>::run(
      n, m, k, b, ldb, a, lda, c, 1, ldc, alpha, blocking, nullptr);
}

template <Real S>
void large_product(Trans trans_a, Trans trans_b, Index m, Index n, Index k, S alpha, S const* a, Index lda, S const* b,
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

}  // namespace moduleformer::detail
